"use strict";

// The keys, and a dialog that lists them.
getamAudit.help = (() => {
  const { facts, LAYERS } = getamAudit;
  const { html, CommonLegend } = getamAudit.tiles;
  const { useLayoutEffect, useRef } = preactHooks;

  const KEYS = [
    ["j, \u2192, \u2193", "next image"],
    ["k, \u2190, \u2191", "previous image"],
    ["Home, End", "first, last image"],
    ["Enter", "large view"],
    ["Esc", "back; leave a field"],
    [`1 to ${LAYERS.length}`, "layers on and off (overlay: the one layer): " + Object.values(facts.layers).join(", ")],
    ["v", "side by side, or overlay"],
    ["c", "colors: safe for the color-blind, or VOC's"],
    ["[ and ]", "overlay's opacity"],
    ["- and +", "smaller, larger tiles"],
    ["g, b, u", "verdict good, bad, unsure"],
    ["x", "take the verdict back"],
    ["n", "note"],
    ["Shift + arrows", "large view: move the place that is read out"],
    ["/", "search"],
    ["?", "these keys"],
  ];

  function Help({ close }) {
    const dialog = useRef(null);
    useLayoutEffect(() => dialog.current.showModal(), []);
    return html`
      <dialog class="help" ref=${dialog} aria-label="keys" onCancel=${(event) => { event.preventDefault(); close(); }}>
        <h2>Keys</h2>
        <table>${KEYS.map(([keys, what]) => html`<tr key=${keys}><th scope="row"><kbd>${keys}</kbd></th><td>${what}</td></tr>`)}</table>
        <h2>Colors</h2>
        <${CommonLegend} rules=${true} />
        <ul class="words">${facts.rules.map(({ name, words }) => html`<li key=${name}><b>${name}</b>: ${words}.</li>`)}</ul>
        <p class="soft">The IoU of an image is the mean over the classes and the background that its ground truth contains;
          ground truth 255 is ignored. Maps are shown in percent of their maximum, at most 320 pixels wide or high.</p>
        <button type="button" onClick=${close}>Close</button>
      </dialog>`;
  }

  return { Help };
})();
