"use strict";

// One image, large: all of its layers, what they say at a place, and its verdict.
getamAudit.detail = (() => {
  const { facts, LAYERS, tilesOf, nameOf, verdicts, decode } = getamAudit;
  const { html, useRecord, useProbe, probe, reading, Tile, CommonLegend } = getamAudit.tiles;
  const { Facts } = getamAudit.gallery;
  const { useEffect, useLayoutEffect, useRef, useState } = preactHooks;

  const SIDE = 310; // width of what is beside the tiles, pixels
  const HEAD = 46;
  const CAPTION = 22;
  const GAP = 8;
  const LEAST = 200; // width of a tile; more of them than fit are scrolled
  const STEP = 0.01; // of the place that Shift and the arrows move

  // The widest tiles that all fit.
  function fit(entry, count, width, height) {
    const shape = entry.height / entry.width;
    let best = LEAST;
    for (let columns = 1; columns <= count; columns++) {
      const rows = Math.ceil(count / columns);
      const wide = Math.floor(width / columns - GAP);
      const high = Math.floor((height / rows - CAPTION - GAP) / shape);
      best = Math.max(best, Math.min(wide, high));
    }
    return Math.min(best, width - GAP);
  }

  function useWindow() {
    const [size, setSize] = useState([window.innerWidth, window.innerHeight]);
    useEffect(() => {
      const measure = () => setSize([window.innerWidth, window.innerHeight]);
      window.addEventListener("resize", measure);
      return () => window.removeEventListener("resize", measure);
    }, []);
    return size;
  }

  function Detail({ entry, place, count, hidden, palette, opacity, setOpacity, move, close, mark, noteRef }) {
    const dialog = useRef(null);
    const record = useRecord(entry.number);
    const [windowWidth, windowHeight] = useWindow();
    useLayoutEffect(() => {
      dialog.current.showModal();
      dialog.current.focus(); // and not its first control, which would take the keys
      return () => probe.set(null);
    }, []);
    const sound = record && !record.problem;
    const tiles = tilesOf(entry, LAYERS.filter((layer) => !hidden.has(layer)));
    const width = fit(entry, tiles.length, windowWidth - SIDE - 3 * GAP, windowHeight - HEAD);
    useEffect(() => {
      // The read-out names every layer, those that are hidden too.
      if (sound) for (const tile of tilesOf(entry, LAYERS)) if (tile.layer !== "photograph") decode(record, tile);
    }, [record]);
    return html`
      <dialog class="detail" tabindex="-1" ref=${dialog} aria-label="large view" onCancel=${(event) => { event.preventDefault(); close(); }}>
        <div class="head">
          <h2>${entry.id}</h2>
          <span class="soft">${place} of ${count}</span>
          <label>Opacity <input type="range" min="0" max="100" step="5" value=${opacity}
            onInput=${(event) => setOpacity(Number(event.target.value))} /></label>
          <span class="buttons">
            <button type="button" onClick=${() => move(-1)} aria-label="previous image">\u2190</button>
            <button type="button" onClick=${() => move(1)} aria-label="next image">\u2192</button>
            <button type="button" onClick=${close}>Back <kbd>Esc</kbd></button>
          </span>
        </div>
        <div class="body">
          <div class="tiles" style=${{ "--opacity": opacity / 100 }}>
            ${record?.problem && html`<p class="problem">${record.problem}</p>`}
            ${tiles.map((tile) => html`<${Tile} key=${entry.number + tile.layer + tile.position} tile=${tile} width=${width}
              height=${Math.round(width * entry.height / entry.width)} over=${true} caption=${true} ...${{ entry, record, palette }} />`)}
          </div>
          <aside style=${{ width: `${SIDE}px` }}>
            <${VerdictForm} key=${entry.number} ...${{ entry, mark, noteRef }} />
            <${ReadOut} ...${{ entry, record }} />
            <${Facts} ...${{ entry, record, palette }} />
            <${CommonLegend} rules=${entry.has("rules")} />
          </aside>
        </div>
      </dialog>`;
  }

  function VerdictForm({ entry, mark, noteRef }) {
    const { verdict, note } = verdicts.get(entry.id);
    return html`
      <form class="marks" onSubmit=${(event) => event.preventDefault()}>
        <div class="words" role="group" aria-label="verdict">
          ${verdicts.WORDS.map((word) => html`
            <button type="button" key=${word} class=${`verdict ${word}`} aria-pressed=${String(verdict === word)}
              onClick=${() => mark(entry, verdict === word ? "" : word)}>${word} <kbd>${word[0]}</kbd></button>`)}
        </div>
        <textarea ref=${noteRef} rows="2" aria-label="note" placeholder="note (n)" value=${note}
          onInput=${(event) => mark(entry, verdicts.get(entry.id).verdict, event.target.value)}></textarea>
      </form>`;
  }

  // What every layer says at the place under the pointer.
  function ReadOut({ entry, record }) {
    const at = useProbe();
    const here = at?.entry === entry && record && !record.problem ? at : null;
    const lines = here ? tilesOf(entry, LAYERS).map((tile) => [tile, reading(entry, record, tile, here.x, here.y)]) : [];
    const rule = lines.find(([tile]) => tile.layer === "rules")?.[1];
    return html`
      <section class="reading" aria-live="polite" aria-label="values at a pixel">
        ${here ? html`<dl>${lines.map(([tile, text]) => html`
            <div key=${tile.layer + tile.position}><dt>${facts.layers[tile.layer]}</dt><dd>${text}</dd></div>`)}</dl>
            ${rule && html`<p class="words">${facts.rules.find(({ name }) => name === rule).words}.</p>`}`
          : html`<p class="soft">Point at a pixel, or move with <kbd>Shift</kbd> and the arrows: every layer's value there.</p>`}
      </section>`;
  }

  // Moves the place by the keyboard, from the middle of the image.
  function moveProbe(entry, record, dx, dy) {
    const from = probe.at?.entry === entry ? probe.at : { x: 0.5, y: 0.5 };
    const within = (value) => Math.min(0.999, Math.max(0, value));
    probe.set({
      entry, record, tile: { layer: "photograph", position: 0 }, x: within(from.x + STEP * dx), y: within(from.y + STEP * dy),
    });
  }

  return { Detail, moveProbe };
})();
