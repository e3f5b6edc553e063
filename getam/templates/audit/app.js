"use strict";

// The page: what is chosen, the controls, and the keys.
(() => {
  const { facts, LAYERS, images, problems, loadLists, recall, selection, verdicts } = getamAudit;
  const { html, Hint, CommonLegend, probe } = getamAudit.tiles;
  const { Gallery, addressOf } = getamAudit.gallery;
  const { Detail, moveProbe } = getamAudit.detail;
  const { Help } = getamAudit.help;
  const { useEffect, useMemo, useRef, useState } = preactHooks;

  const PREFERENCES = {
    view: "side",
    layers: LAYERS.filter((layer) => layer !== "raw"),
    overlay: "pseudo_labels",
    tile: 118,
    opacity: 65,
    palette: "safe",
  };
  const TILES = { min: 80, max: 320, step: 10 };
  const number = new Intl.NumberFormat("en");
  const within = (value, least, most) => Math.min(most, Math.max(least, value));

  function usePreferences() {
    const [values, setValues] = useState(() => ({ ...PREFERENCES, ...verdicts.preferences() }));
    const prefer = (change) => setValues((before) => {
      const after = { ...before, ...change };
      verdicts.keepPreferences(after);
      return after;
    });
    return [values, prefer];
  }

  function idOfAddress() {
    try {
      return decodeURIComponent(location.hash.slice(1));
    } catch (error) {
      return ""; // a stray % in an address that somebody typed
    }
  }

  function App() {
    const [preferences, prefer] = usePreferences();
    const [filter, setFilter] = useState(selection.NONE);
    const [loaded, setLoaded] = useState(0);
    const [marks, setMarks] = useState(0);
    const [current, setCurrent] = useState(null);
    const [large, setLarge] = useState(false);
    const [help, setHelp] = useState(false);
    const [hidden, setHidden] = useState(new Set());
    const [message, setMessage] = useState("");
    const columns = useRef(1);
    const wanted = useRef(idOfAddress()); // the id of the address, until its list is there
    const address = useRef(location.hash); // the latest that was taken note of
    const note = useRef(null);
    const search = useRef(null);
    const file = useRef(null);
    const { view, layers, overlay, tile, opacity, palette } = preferences;

    const shown = useMemo(() => selection.select(images, filter), [filter, loaded, filter.verdict && marks]);
    const there = useMemo(() => LAYERS.filter((layer) => images.some((entry) => entry.has(layer))), [loaded]);
    const measures = useMemo(() => selection.measures(images), [loaded]);
    const chosen = useMemo(() => LAYERS.filter((layer) => layers.includes(layer)), [layers]);

    useEffect(() => {
      loadLists(() => setLoaded((count) => count + 1));
      const changed = () => {
        address.current = location.hash;
        wanted.current = idOfAddress();
        setLoaded((count) => count + 1);
      };
      window.addEventListener("hashchange", changed);
      return () => window.removeEventListener("hashchange", changed);
    }, []);

    useEffect(() => {
      const entry = wanted.current && images.find((one) => one?.id === wanted.current);
      if (entry) {
        wanted.current = "";
        if (!shown.includes(entry)) setFilter(selection.NONE);
        setCurrent(entry);
        setLarge(true);
        return;
      }
      if (wanted.current && loaded >= facts.lists) {
        setMessage(`No image on this page has the id ${wanted.current}.`);
        wanted.current = "";
      }
      if (!wanted.current && !large && !shown.includes(current)) setCurrent(shown[0] ?? null);
    }, [loaded, shown, large]);

    const open = (entry) => {
      setCurrent(entry);
      setLarge(true);
    };
    // The large view's address is the image's; one that came in the meantime is kept, its event is on its way.
    useEffect(() => {
      if (!loaded || wanted.current || location.hash !== address.current) return;
      history.replaceState(null, "", addressOf(large ? current : null));
      address.current = location.hash;
    }, [large, current]);
    const move = (step) => {
      const position = shown.indexOf(current);
      if (shown.length) setCurrent(shown[within(position + step, 0, shown.length - 1)]);
    };
    const mark = (entry, verdict, text = verdicts.get(entry.id).note) => {
      verdicts.set(entry.id, verdict, text);
      setMarks((count) => count + 1);
    };
    const toggle = (layer) => {
      if (large) {
        setHidden((before) => {
          const after = new Set(before);
          if (!after.delete(layer)) after.add(layer);
          return after;
        });
      } else if (view === "overlay") prefer({ overlay: layer });
      else prefer({ layers: layers.includes(layer) ? layers.filter((one) => one !== layer) : [...layers, layer] });
    };
    const writeNote = () => {
      setLarge(true);
      // After the large view is there.
      requestAnimationFrame(() => requestAnimationFrame(() => note.current?.focus()));
    };

    const actions = {
      j: () => move(1),
      k: () => move(-1),
      ArrowRight: () => move(1),
      ArrowLeft: () => move(-1),
      ArrowDown: () => move(large ? 1 : columns.current),
      ArrowUp: () => move(large ? -1 : -columns.current),
      Home: () => move(-images.length),
      End: () => move(images.length),
      Enter: () => current && setLarge(true),
      v: () => !large && prefer({ view: view === "side" ? "overlay" : "side" }),
      c: () => prefer({ palette: palette === "safe" ? "voc" : "safe" }),
      "[": () => prefer({ opacity: within(opacity - 5, 0, 100) }),
      "]": () => prefer({ opacity: within(opacity + 5, 0, 100) }),
      "-": () => prefer({ tile: within(tile - TILES.step, TILES.min, TILES.max) }),
      "+": () => prefer({ tile: within(tile + TILES.step, TILES.min, TILES.max) }),
      g: () => current && mark(current, "good"),
      b: () => current && mark(current, "bad"),
      u: () => current && mark(current, "unsure"),
      x: () => current && mark(current, "", ""),
      n: () => current && writeNote(),
      "/": () => {
        setLarge(false);
        search.current.focus();
      },
      "?": () => setHelp(true),
    };
    const places = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1] };

    const pressed = useRef(null);
    pressed.current = (event) => {
      const { key, target } = event;
      if (event.ctrlKey || event.metaKey || event.altKey || help) return;
      const typing = target.matches("textarea, select, input:not([type=checkbox], [type=radio], [type=range])");
      if (key === "Escape" && typing) {
        event.preventDefault();
        target.blur();
        return;
      }
      if (typing) return;
      if (large && event.shiftKey && places[key] && recall(current.number)) {
        event.preventDefault();
        moveProbe(current, recall(current.number), ...places[key]);
        return;
      }
      // Keys that such a control takes itself.
      if (target.matches("button, summary, a") && key === "Enter") return;
      if (target.matches("[type=range], [type=radio]") && (key.startsWith("Arrow") || key === "Home" || key === "End")) return;
      const action = /^[1-9]$/.test(key) && Number(key) <= LAYERS.length ? () => toggle(LAYERS[key - 1]) : actions[key];
      if (!action) return;
      event.preventDefault();
      action();
    };
    useEffect(() => {
      const listener = (event) => pressed.current(event);
      document.addEventListener("keydown", listener);
      return () => document.removeEventListener("keydown", listener);
    }, []);

    const change = (key) => (event) => {
      setFilter((before) => ({ ...before, [key]: event.target.value }));
      setCurrent(null); // the first that is shown then
    };
    const choice = (key, options) => html`
      <select name=${key} value=${filter[key]} onInput=${change(key)}>
        ${options.map(([value, text]) => html`<option key=${value} value=${value}>${text}</option>`)}
      </select>`;
    const upload = async (event) => {
      const [picked] = event.target.files;
      if (picked) setMessage(await verdicts.upload(picked));
      event.target.value = "";
      setMarks((count) => count + 1);
    };
    const warnings = [verdicts.warning(), ...problems, message].filter(Boolean);
    return html`
      <form class="bar" onSubmit=${(event) => event.preventDefault()} aria-label="filters and views">
        <div class="line">
          <label>Search <input ref=${search} type="search" placeholder="id or class  ( / )" value=${filter.text} autocomplete="off"
            onInput=${change("text")} /></label>
          <label>Class ${choice("class", [["", "all"], ...facts.shown.map((value) => [String(value), facts.classes[value]])])}</label>
          <label>Split ${choice("split", [["", "all"], ...facts.splits.map((split, position) => [String(position), split])])}</label>
          <label>Verdict ${choice("verdict", [["", "all"], ["any", "any"], ["none", "none"], ...verdicts.WORDS.map((word) => [word, word])])}</label>
          <label>Where ${choice("score", measures.map((key) => [key, selection.measureName(key)]))}</label>
          <span class="range">
            <input type="number" min="0" max="100" placeholder="0" aria-label="least, percent" value=${filter.min} onInput=${change("min")} />
            to <input type="number" min="0" max="100" placeholder="100" aria-label="most, percent" value=${filter.max} onInput=${change("max")} /> %
          </span>
          <label>Sort ${choice("sort", [["id", "id"], ...measures.map((key) => [key, selection.measureName(key)])])}</label>
          <label><span class="hidden">Order</span>${choice("order", filter.sort === "id"
            ? [["worst", "ascending"], ["best", "descending"]] : [["worst", "worst first"], ["best", "best first"]])}</label>
        </div>
        <div class="line">
          <span class="views" role="group" aria-label="view">
            <button type="button" aria-pressed=${String(view === "side")} onClick=${() => prefer({ view: "side" })}>Side by side</button>
            <button type="button" aria-pressed=${String(view === "overlay")} onClick=${() => prefer({ view: "overlay" })}>Overlay</button>
          </span>
          <fieldset class="layers">
            <legend class="hidden">Layers</legend>
            ${there.map((layer) => html`
              <label key=${view + layer}><input type=${view === "side" ? "checkbox" : "radio"} name="layer" value=${layer}
                checked=${view === "side" ? layers.includes(layer) : overlay === layer} onChange=${() => toggle(layer)} />
                ${facts.layers[layer]} <kbd>${LAYERS.indexOf(layer) + 1}</kbd></label>`)}
          </fieldset>
        </div>
        <div class="line">
          ${view === "overlay" && html`<label>Opacity <input type="range" min="0" max="100" step="5" value=${opacity}
            onInput=${(event) => prefer({ opacity: Number(event.target.value) })} /></label>`}
          <label>Size <input type="range" ...${TILES} value=${tile} onInput=${(event) => prefer({ tile: Number(event.target.value) })} /></label>
          <label><input type="checkbox" checked=${palette === "voc"} onChange=${actions.c} /> VOC colors</label>
          <output class="count" aria-live="polite">${number.format(shown.length)} of ${number.format(facts.images)} images</output>
          <span class="buttons">
            ${number.format(verdicts.count())} verdict${verdicts.count() === 1 ? "" : "s"}
            <button type="button" onClick=${() => verdicts.download("json")}>Export JSON</button>
            <button type="button" onClick=${() => verdicts.download("csv")}>Export CSV</button>
            <button type="button" onClick=${() => file.current.click()}>Import JSON</button>
            <input ref=${file} type="file" accept=".json" hidden onChange=${upload} />
            <button type="button" onClick=${() => setHelp(true)}>Keys <kbd>?</kbd></button>
          </span>
        </div>
        ${warnings.map((text) => html`<p class="problem" role="alert" key=${text}>${text}</p>`)}
      </form>
      <div class="view" style=${{ "--opacity": opacity / 100 }}>
        <${Gallery} images=${shown} layers=${chosen} setColumns=${(count) => { columns.current = count; }}
          ...${{ view, overlay, tile, palette, current, select: setCurrent, open }} />
      </div>
      <footer><${CommonLegend} rules=${there.includes("rules")} /></footer>
      ${!large && !help && html`<${Hint} />`}
      <p class="hidden" role="status">${current ? `${current.id} ${verdicts.get(current.id).verdict}` : ""}</p>
      ${large && current && html`<${Detail} entry=${current} place=${shown.indexOf(current) + 1} count=${number.format(shown.length)}
        setOpacity=${(value) => prefer({ opacity: value })} close=${() => setLarge(false)} noteRef=${note}
        ...${{ hidden, palette, opacity, move, mark }} />`}
      ${help && html`<${Help} close=${() => setHelp(false)} />`}`;
  }

  // The pointer is over something else after a scroll.
  document.addEventListener("scroll", () => probe.at && probe.set(null), { capture: true, passive: true });
  document.getElementById("app").replaceChildren();
  preact.render(html`<${App} />`, document.getElementById("app"));
})();
