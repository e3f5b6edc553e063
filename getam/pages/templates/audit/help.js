"use strict";

// A dialog that lists the keys and explains colors, IoU and verdicts.
getamAudit.help = (() => {
  const { facts } = getamAudit;
  const { html, CommonLegend } = getamAudit.tiles;
  const { useModal } = getamAudit.detail;

  function Help({ keys, close }) {
    const dialog = useModal();
    return html`
      <dialog class="help" tabindex="-1" ref=${dialog} aria-label="keys" onCancel=${(event) => { event.preventDefault(); close(); }}>
        <h2>Keys</h2>
        <table>${keys.map(([names, what]) => html`<tr key=${names}><th scope="row"><kbd>${names}</kbd></th><td>${what}</td></tr>`)}</table>
        <h2>Colors</h2>
        <${CommonLegend} rules=${true} />
        <ul class="words">${facts.rules.map(({ name, words }) => html`<li key=${name}><b>${name}</b>: ${words}.</li>`)}</ul>
        <p class="soft">The IoU of an image is the mean over the classes and the background that its ground truth contains;
          ground truth 255 is ignored. Maps are shown in percent of their maximum, at most 320 pixels wide or high;
          labels, rules and saliency at most 1024, resized by nearest neighbor.</p>
        <p class="soft">Verdicts are kept in this browser under the run's name and its data set: two folders with a run of the same
          name and data set share them. Export them to pass them on.</p>
        <button type="button" onClick=${close}>Close</button>
      </dialog>`;
  }

  return { Help };
})();
