"use strict";

// The large view of one image: all of its layers, their values at a pixel, and its verdict.
getamAudit.detail = (() => {
  const { facts, LAYERS, tilesOf, verdicts } = getamAudit;
  const { html, useRecord, useProbe, probe, reading, Tile, CommonLegend } = getamAudit.tiles;
  const { Facts, Layers, useSize } = getamAudit.gallery;
  const { useEffect, useLayoutEffect, useRef } = preactHooks;

  const CAPTION = 22;
  const GAP = 8;
  const LEAST = 180; // least width of a tile, pixels; tiles that do not fit are reached by scrolling

  // The largest tile width at which all tiles fit.
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

  // Opens a dialog as long as it is rendered; afterwards the focus returns to where it was.
  function useModal() {
    const ref = useRef(null);
    useLayoutEffect(() => {
      const dialog = ref.current;
      const before = document.activeElement;
      dialog.showModal();
      dialog.focus(); // not its first control, which would take the keys and scroll into view
      dialog.scrollTop = 0;
      return () => {
        dialog.close();
        // The element may be gone, if the gallery has scrolled on in the meantime.
        if (!before.isConnected) document.querySelector(".scroller").focus();
      };
    }, []);
    return ref;
  }

  function Detail({ entry, place, count, there, hidden, toggle, palette, opacity, setOpacity, move, close, mark, write, noteRef, tilesRef, told }) {
    const dialog = useModal();
    const record = useRecord(entry.number);
    const { width: room, height: high } = useSize(tilesRef);
    useEffect(() => () => probe.set(null), []);
    const tiles = tilesOf(entry, LAYERS.filter((layer) => !hidden.has(layer)));
    const width = fit(entry, tiles.length, room - 3 * GAP, high - GAP / 2);
    // The height is limited, since a narrow image of the least width would be many screens high.
    const height = Math.min(Math.round(width * entry.height / entry.width), Math.max(LEAST, high - CAPTION - GAP));
    return html`
      <dialog class="detail" tabindex="-1" ref=${dialog} aria-label="large view" onCancel=${(event) => { event.preventDefault(); close(); }}>
        <div class="head">
          <h2>${entry.id}</h2>
          <span class="soft">${place ? `${place} of ${count}` : `not among the ${count} that are shown`}</span>
          <label>Opacity <input type="range" min="0" max="100" step="5" value=${opacity}
            onInput=${(event) => setOpacity(Number(event.target.value))} /></label>
          <span class="buttons">
            <button type="button" onClick=${() => move(-1)} aria-label="previous image">\u2190</button>
            <button type="button" onClick=${() => move(1)} aria-label="next image">\u2192</button>
            <button type="button" onClick=${close}>Back <kbd>Esc</kbd></button>
          </span>
          <${Layers} ...${{ there, toggle }} isOn=${(layer) => !hidden.has(layer)} />
        </div>
        ${told}
        <div class="body">
          <div class="tiles" ref=${tilesRef} style=${{ "--opacity": opacity / 100 }}>
            ${record?.problem && html`<p class="problem">${record.problem}</p>`}
            ${room > 0 && tiles.map((tile) => html`<${Tile} key=${entry.number + tile.layer + tile.position} tile=${tile}
              over=${true} caption=${true} ...${{ width, height, entry, record, palette }} />`)}
          </div>
          <aside>
            <${VerdictForm} key=${entry.number} ...${{ entry, mark, write, noteRef }} />
            <${ReadOut} ...${{ entry, record }} />
            <${Facts} ...${{ entry, record, palette }} />
            <${CommonLegend} rules=${entry.has("rules")} />
          </aside>
        </div>
      </dialog>`;
  }

  function VerdictForm({ entry, mark, write, noteRef }) {
    const { verdict, note } = verdicts.get(entry.id);
    return html`
      <form class="marks" onSubmit=${(event) => event.preventDefault()}>
        <div class="words" role="group" aria-label="verdict">
          ${verdicts.WORDS.map((word) => html`
            <button type="button" key=${word} class=${`verdict ${word}`} aria-pressed=${String(verdict === word)}
              onClick=${() => mark(entry, verdict === word ? "" : word)}>${word} <kbd>${word[0]}</kbd></button>`)}
        </div>
        <textarea ref=${noteRef} rows="2" aria-label="note" placeholder="note (n)" maxlength=${verdicts.LONGEST_NOTE} value=${note}
          onInput=${(event) => write(entry, event.target.value)}></textarea>
      </form>`;
  }

  // Shows the value of every layer at the pixel under the pointer.
  function ReadOut({ entry, record }) {
    const at = useProbe();
    const here = at?.entry === entry && record && !record.problem ? at : null;
    const lines = here ? tilesOf(entry, LAYERS).map((tile) => [tile, reading(entry, record, tile, here.x, here.y)]) : [];
    const rule = lines.find(([tile]) => tile.layer === "rules")?.[1];
    return html`
      <section class="reading" aria-live="polite" aria-label="values at a pixel">
        ${here ? html`<dl>${lines.map(([tile, text]) => html`
            <div key=${tile.layer + tile.position}><dt>${facts.layers[tile.layer]}</dt><dd>${text}</dd></div>`)}</dl>
            ${rule && html`<p class="words">${facts.rules.find(({ name }) => name === rule)?.words}.</p>`}`
          : html`<p class="soft">Point at a pixel, or move with <kbd>Shift</kbd> and the arrows: every layer's value there.</p>`}
      </section>`;
  }

  // Moves the probed place by image pixels, starting at the middle of the image.
  function moveProbe(entry, record, dx, dy) {
    const from = probe.at?.entry === entry ? probe.at : { x: 0.5, y: 0.5 };
    const moved = (share, size, step) => (Math.min(size - 1, Math.max(0, Math.floor(share * size) + step)) + 0.5) / size;
    probe.set({
      entry, record, tile: { layer: "photograph", position: 0 },
      x: moved(from.x, entry.width, dx), y: moved(from.y, entry.height, dy),
    });
  }

  return { Detail, useModal, moveProbe };
})();
