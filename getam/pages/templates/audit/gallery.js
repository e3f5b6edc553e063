"use strict";

// The gallery of the shown images: a row for each, or a grid of overlays. Only rows in view are in the document.
getamAudit.gallery = (() => {
  const { facts, LAYERS, tilesOf, verdicts } = getamAudit;
  const { html, useRecord, Tile, Legend } = getamAudit.tiles;
  const { useEffect, useLayoutEffect, useMemo, useRef, useState } = preactHooks;

  const FACTS = 232; // width of a row's facts, pixels
  const FACTS_HEIGHT = 138; // least height of a row
  const CAPTION = 20;
  const GAP = 8;
  const BEYOND = 200; // pixels above and below the view that are rendered too

  // The width of a tile; very wide or tall images are fitted into it.
  const tileWidth = (entry, height) => Math.round(height * Math.min(4 / 3, Math.max(2 / 3, entry.width / entry.height)));
  const percent = (share) => (100 * share).toFixed(1) + " %";

  function useSize(ref) {
    const [size, setSize] = useState({ width: 0, height: 0 });
    useLayoutEffect(() => {
      const measure = () => setSize({ width: ref.current.clientWidth, height: ref.current.clientHeight });
      measure();
      const observer = new ResizeObserver(measure);
      observer.observe(ref.current);
      return () => observer.disconnect();
    }, []);
    return size;
  }

  // The number of columns, and the top of each row; the last entry of `starts` is the total height.
  function layout(images, view, layers, tile, width) {
    if (view === "overlay") {
      const cell = images.reduce((widest, entry) => Math.max(widest, tileWidth(entry, tile)), 0);
      const columns = Math.max(1, Math.floor((width - GAP) / (cell + GAP)));
      const rows = Math.ceil(images.length / columns);
      const height = tile + 2 * CAPTION + GAP;
      return { columns, cell, starts: Float64Array.from({ length: rows + 1 }, (_, row) => row * height) };
    }
    const starts = new Float64Array(images.length + 1);
    images.forEach((entry, row) => {
      const columns = Math.max(1, Math.floor((width - FACTS - 3 * GAP) / (tileWidth(entry, tile) + GAP)));
      const lines = Math.ceil(tilesOf(entry, layers).length / columns);
      starts[row + 1] = starts[row] + Math.max(FACTS_HEIGHT, lines * (tile + CAPTION + GAP)) + 2 * GAP;
    });
    return { columns: 1, starts };
  }

  // The row at a height: the last one that starts at or above it.
  function rowAt(starts, height) {
    let low = 0, high = Math.max(0, starts.length - 2);
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (starts[middle] <= height) low = middle;
      else high = middle - 1;
    }
    return low;
  }

  function Gallery({ images, view, layers, overlay, tile, palette, current, select, open, setColumns }) {
    const scroller = useRef(null);
    const { width, height } = useSize(scroller);
    const [top, setTop] = useState(0);
    const { columns, cell, starts } = useMemo(
      () => layout(images, view, layers, tile, width), [images, view, layers, tile, width]);
    useEffect(() => setColumns(columns), [columns]);
    const position = images.indexOf(current);
    const row = Math.floor(position / columns);

    // The current image stays in view, whatever changes.
    const reached = useRef(-1); // the row that a scroll made current; it is where the user wants it
    useLayoutEffect(() => {
      if (row < 0 || !height) return;
      const box = scroller.current;
      const isReached = row === reached.current;
      reached.current = -1;
      if (isReached) return;
      if (starts[row] < box.scrollTop) box.scrollTop = starts[row];
      else if (starts[row + 1] > box.scrollTop + height) box.scrollTop = Math.min(starts[row], starts[row + 1] - height);
      setTop(box.scrollTop);
    }, [row, starts, height]);

    // If the user scrolls the current image out of view, the first one in view becomes current, to which the keys apply.
    const scrolledTo = useRef(null);
    scrolledTo.current = (from) => {
      setTop(from);
      if (row < 0 || (starts[row] < from + height && starts[row + 1] > from)) return;
      const first = rowAt(starts, from);
      const whole = starts[first] < from && starts[first + 2] <= from + height ? first + 1 : first;
      reached.current = whole;
      select(images[whole * columns]);
    };
    const pending = useRef(0);
    const scrolled = () => {
      cancelAnimationFrame(pending.current);
      pending.current = requestAnimationFrame(() => scroller.current && scrolledTo.current(scroller.current.scrollTop));
    };
    const rows = [];
    if (height && images.length) {
      const last = rowAt(starts, top + height + BEYOND);
      for (let number = rowAt(starts, Math.max(0, top - BEYOND)); number <= last; number++) rows.push(number);
    }
    const shared = { layers, overlay, tile, cell, palette, select, open };
    return html`
      <div class="scroller" ref=${scroller} tabindex="0" role="list" aria-label="images" onScroll=${scrolled}>
        <div class="all" style=${{ height: `${starts[starts.length - 1]}px` }}>
          ${rows.map((number) => html`
            <div class=${view} key=${images[number * columns].number} role="presentation"
              style=${{ top: `${starts[number]}px`, height: `${starts[number + 1] - starts[number]}px` }}>
              ${images.slice(number * columns, (number + 1) * columns).map((entry, place) => html`
                <${view === "overlay" ? Cell : Row} key=${entry.number} entry=${entry} current=${entry === current}
                  place=${number * columns + place + 1} count=${images.length} ...${shared} />`)}
            </div>`)}
        </div>
        ${images.length === 0 && html`<p class="empty">${facts.images ? "No image fits these filters." : "This run has no images."}</p>`}
      </div>`;
  }

  const attributes = ({ entry, current, place, count, select }) => ({
    id: `image:${entry.number}`,
    role: "listitem",
    "aria-current": current ? "true" : undefined,
    "aria-posinset": place,
    "aria-setsize": count,
    onClick: () => select(entry),
  });

  function Row(props) {
    const { entry, layers, tile, palette, open } = props;
    const record = useRecord(entry.number);
    return html`
      <article class="row" ...${attributes(props)} onDblClick=${() => open(entry)}>
        <div class="facts" style=${{ width: `${FACTS}px` }}>
          <${Name} entry=${entry} open=${open} />
          <${Facts} ...${{ entry, record, palette }} />
        </div>
        <div class="tiles">
          ${record?.problem && html`<p class="problem">${record.problem}</p>`}
          ${tilesOf(entry, layers).map((one) => html`
            <${Tile} key=${one.layer + one.position} tile=${one} width=${tileWidth(entry, tile)} height=${tile} over=${false}
              caption=${true} ...${{ entry, record, palette }} />`)}
        </div>
      </article>`;
  }

  function Cell(props) {
    const { entry, overlay, tile, cell, palette, open } = props;
    const record = useRecord(entry.number);
    const one = { layer: entry.has(overlay) ? overlay : "photograph", position: overlay === "raw" || overlay === "refined" ? -1 : 0 };
    // An image without a class has no map.
    if (one.position < 0 && entry.labels.length === 0) one.layer = "photograph";
    return html`
      <article class="cell" ...${attributes(props)} onDblClick=${() => open(entry)} style=${{ width: `${cell}px` }}>
        <${Tile} key=${one.layer} tile=${one} width=${cell} height=${tile} over=${true}
          caption=${false} ...${{ entry, record, palette }} />
        <${Name} entry=${entry} open=${open} />
        <p class="soft line">${record?.problem ?? entry.labels.map((value) => facts.classes[value]).join(", ")}</p>
      </article>`;
  }

  // A choice among the existing layers: of several, or of only one if `one`.
  function Layers({ there, one, isOn, toggle }) {
    return html`
      <fieldset class="layers">
        <legend class="hidden">Layers</legend>
        ${there.map((layer) => html`
          <label key=${layer + one}><input type=${one ? "radio" : "checkbox"} name="layer" value=${layer}
            checked=${isOn(layer)} onChange=${() => toggle(layer)} />
            ${facts.layers[layer]} <kbd>${LAYERS.indexOf(layer) + 1}</kbd></label>`)}
      </fieldset>`;
  }

  const addressOf = (entry) => "#" + (entry ? encodeURIComponent(entry.id) : "");

  // The id, which opens the large view, and the verdict.
  function Name({ entry, open }) {
    const { verdict, note } = verdicts.get(entry.id);
    const follow = (event) => {
      event.preventDefault();
      open(entry);
    };
    return html`<h2>
      <a class="name" tabindex="-1" href=${addressOf(entry)} title="open the large view" onClick=${follow}>${entry.id}</a>
      ${verdict && html`<span class=${`verdict ${verdict}`} title=${note}>${verdict}${note && " \u270e"}</span>`}
    </h2>`;
  }

  function Facts({ entry, record, palette }) {
    const [scores, shares] = [facts.scores, facts.shares].map((names) =>
      Object.entries(names).filter(([key]) => entry[key] !== null));
    return html`
      <p class="soft">${entry.split}, ${entry.width}\u00d7${entry.height}${entry.rejected ? ", rejected by a verdict" : ""}</p>
      <${Legend} ...${{ entry, record, palette }} />
      <dl>${scores.map(([key, name]) => html`<div key=${key}><dt>IoU ${name}</dt><dd>${percent(entry[key])}</dd></div>`)}</dl>
      <p class="shares">${shares.map(([key, name]) => html`<span key=${key}><span class="soft">${name}</span> ${percent(entry[key])}</span> `)}</p>`;
  }

  return { Gallery, Facts, Layers, useSize, addressOf };
})();
