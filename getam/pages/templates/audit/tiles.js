"use strict";

// Tiles: one layer of an image, its value under the pointer, and the legends.
getamAudit.tiles = (() => {
  const { facts, colors, decode, decodeToKeep, request, recall, nameOf, photograph } = getamAudit;
  const html = htm.bind(preact.h);
  const { useEffect, useLayoutEffect, useRef, useState } = preactHooks;

  // The record of an image: null until it has loaded, {problem} if it is missing or damaged.
  function useRecord(number) {
    const [loaded, setLoaded] = useState({ number, record: recall(number) });
    useEffect(() => {
      const show = (record) => setLoaded({ number, record });
      const record = recall(number);
      show(record);
      return record ? undefined : request(number, show);
    }, [number]);
    useLayoutEffect(() => {
      const { record } = loaded;
      const tell = () => setLoaded({ ...loaded });
      record?.users?.add(tell);
      if (record?.users && record.problem) tell(); // a layer turned out to be damaged before this effect ran
      return () => record?.users?.delete(tell);
    }, [loaded.record]);
    return loaded.number === number ? loaded.record : null;
  }

  // The place under the pointer. It is no state of the page, so that only the read-outs are rendered again when it moves.
  const probe = {
    at: null, // {entry, record, tile, x, y, left, top}; x and y in [0, 1)
    listeners: new Set(),
    set(at) {
      probe.at = at;
      for (const listener of probe.listeners) listener(at);
    },
  };

  function useProbe() {
    const [at, setAt] = useState(probe.at);
    useEffect(() => {
      probe.listeners.add(setAt);
      return () => probe.listeners.delete(setAt);
    }, []);
    return at;
  }

  const labelName = (value) =>
    value === colors.UNKNOWN ? "unknown (255)" : `${facts.classes[value] ?? "no class"} (${value})`;

  // The value of a layer at a place, as text; "" if the layer is damaged.
  function reading(entry, record, tile, x, y) {
    if (tile.layer === "photograph") return `x ${Math.floor(x * entry.width)}, y ${Math.floor(y * entry.height)}`;
    const layer = decodeToKeep(record, tile);
    if (!layer) return "";
    const at = Math.floor(y * layer.height) * layer.width + Math.floor(x * layer.width);
    const value = layer.values[at];
    if (tile.layer === "rules") return facts.rules[value]?.name ?? "";
    if (tile.layer === "saliency") return `${value} %`;
    if (tile.layer !== "raw" && tile.layer !== "refined") return labelName(value);
    const position = tile.position < 0 ? layer.which[at] : tile.position;
    const name = facts.classes[entry.labels[position]];
    const peak = tile.layer === "raw" ? ` of ${peakOf(record, position)}` : "";
    return `${name} ${value} %${peak}`;
  }

  const peakOf = (record, position) => record.raw[position].max.toExponential(1);

  // The size of an image that is fitted into a box.
  function fitted(entry, width, height) {
    const scale = Math.min(width / entry.width, height / entry.height);
    return [Math.max(1, Math.round(entry.width * scale)), Math.max(1, Math.round(entry.height * scale))];
  }

  // A canvas of this size, in the element that `place` refers to. Canvases that leave the view are reused, since the
  // browser frees their memory late.
  const spare = [];
  function useCanvas(width, height, over) {
    const place = useRef(null), canvas = useRef(null);
    useLayoutEffect(() => {
      canvas.current = spare.pop() ?? document.createElement("canvas");
      place.current.append(canvas.current);
      return () => {
        canvas.current.remove();
        canvas.current.width = 0;
        spare.push(canvas.current);
      };
    }, []);
    useLayoutEffect(() => {
      Object.assign(canvas.current, { width, height, className: over ? "over" : "" });
      delete canvas.current.dataset.painted;
    }, [width, height, over]);
    return [place, canvas];
  }

  function Layer({ record, tile, size, palette, over }) {
    const ratio = window.devicePixelRatio || 1;
    const [width, height] = size.map((side) => Math.max(1, Math.round(side * ratio)));
    const [place, canvas] = useCanvas(width, height, over);
    useLayoutEffect(() => {
      const layer = decode(record, tile);
      if (layer) colors.paint(canvas.current, layer, tile.layer, record.classes, palette, over, ratio);
    }, [record, tile.layer, tile.position, width, height, palette, over]);
    return html`<span ref=${place}></span>`;
  }

  function Photograph({ record, size }) {
    const ratio = window.devicePixelRatio || 1;
    const [width, height] = size.map((side) => Math.max(1, Math.round(side * ratio)));
    const [place, canvas] = useCanvas(width, height, false);
    useLayoutEffect(() => {
      let wanted = true;
      photograph(record, width, height).then((bitmap) => {
        if (wanted && bitmap) {
          canvas.current.getContext("2d").drawImage(bitmap, 0, 0);
          canvas.current.dataset.painted = "photograph";
        }
        bitmap?.close();
      });
      return () => { wanted = false; };
    }, [record, width, height]);
    return html`<span ref=${place}></span>`;
  }

  // A tile: the photograph, a layer, or (with `over`) a layer drawn over the photograph.
  function Tile({ entry, record, tile, width, height, palette, over, caption }) {
    const size = fitted(entry, width, height);
    const style = { width: `${size[0]}px`, height: `${size[1]}px` };
    const move = (event) => {
      const box = event.currentTarget.getBoundingClientRect();
      const x = (event.clientX - box.left) / box.width, y = (event.clientY - box.top) / box.height;
      if (x < 0 || y < 0 || x >= 1 || y >= 1 || !sound) return;
      probe.set({ entry, record, tile, x, y, left: event.clientX, top: event.clientY });
    };
    // A tile that is removed under the pointer gets no mouseleave event.
    useEffect(() => () => {
      if (probe.at?.entry === entry && probe.at.tile.layer === tile.layer) probe.set(null);
    }, []);
    const isPhotograph = tile.layer === "photograph";
    const sound = record && !record.problem;
    const name = nameOf(tile);
    const peak = caption && tile.layer === "raw" && sound ? `max ${peakOf(record, tile.position)}` : "";
    return html`
      <figure style=${{ width: `${width}px` }}>
        <div class="stack" style=${style} data-layer=${tile.layer} data-position=${tile.position}
          onMouseMove=${move} onMouseLeave=${() => probe.set(null)}>
          ${sound && (over || isPhotograph) && html`<${Photograph} ...${{ record, size }} />`}
          ${sound && !isPhotograph && html`<${Layer} ...${{ record, tile, size, palette, over }} />`}
          ${caption && html`<${Mark} ...${{ entry, size }} />`}
        </div>
        ${caption && html`
          <figcaption title=${peak ? `${name}, ${peak}` : name}>${name}${peak && html` <span class="soft">${peak}</span>`}</figcaption>`}
      </figure>`;
  }

  // Marks the place under the pointer in all tiles of the image.
  function Mark({ entry, size }) {
    const at = useProbe();
    if (at?.entry !== entry) return null;
    return html`<span class="mark" style=${{ left: `${at.x * size[0]}px`, top: `${at.y * size[1]}px` }}></span>`;
  }

  // Beside the pointer: the layer's name and its value there.
  function Hint() {
    const at = useProbe();
    if (!at) return null;
    const style = {
      left: `${Math.min(at.left + 14, window.innerWidth - 260)}px`,
      top: `${Math.min(at.top + 16, window.innerHeight - 50)}px`,
    };
    return html`<div class="hint" role="status" style=${style}>
      ${facts.layers[at.tile.layer]}: <b>${reading(at.entry, at.record, at.tile, at.x, at.y)}</b></div>`;
  }

  const Swatch = ({ background }) => html`<span class="swatch" style=${{ background }} aria-hidden="true"></span>`;

  const Scale = ({ background }) => html`<span class="swatch heat" style=${{ background }} aria-hidden="true"></span>`;

  // The classes of an image with their colors; classes that are not among its labels come last.
  function Legend({ entry, record, palette }) {
    const classes = record && !record.problem ? record.classes : entry.labels;
    return html`<ul class="legend" aria-label="classes">
      ${classes.map((value) => html`<li key=${value}>
        <${Swatch} background=${colors.classBackground(classes, value, palette)} />
        ${facts.classes[value]}${!entry.labels.includes(value) && html` <span class="soft">not a label</span>`}
      </li>`)}
      ${classes.length === 0 && html`<li class="soft">no class</li>`}
    </ul>`;
  }

  // The colors that are the same for all images.
  function CommonLegend({ rules }) {
    return html`<ul class="legend common" aria-label="colors of all images">
      <li><${Swatch} background=${colors.unknownBackground} />unknown, 255</li>
      <li><${Swatch} background=${colors.GROUND} />background of labels</li>
      <li>maps 0 <${Scale} background=${colors.heatBackground} /> maximum</li>
      <li>saliency 0 <${Scale} background=${colors.grayBackground} /> 100 %</li>
      ${rules && html`<li class="soft">rules:</li>`}
      ${rules && facts.rules.map(({ name, words }, rule) => html`<li key=${rule} title=${words}>
        <${Swatch} background=${colors.ruleBackground(rule)} />${name}</li>`)}
    </ul>`;
  }

  return { html, useRecord, useProbe, probe, reading, Tile, Hint, Legend, CommonLegend };
})();
