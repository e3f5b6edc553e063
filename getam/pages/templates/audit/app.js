"use strict";

// The page: its state, the controls, and the keys.
(() => {
  const { facts, LAYERS, images, problems, loadLists, recall, selection, verdicts } = getamAudit;
  const { html, Hint, CommonLegend, probe } = getamAudit.tiles;
  const { Gallery, Layers, addressOf } = getamAudit.gallery;
  const { Detail, moveProbe } = getamAudit.detail;
  const { Help } = getamAudit.help;
  const { useEffect, useLayoutEffect, useMemo, useRef, useState } = preactHooks;

  const PREFERENCES = {
    view: "side",
    layers: LAYERS.filter((layer) => layer !== "raw"),
    overlay: "pseudo_labels",
    tile: 118,
    opacity: 65,
    palette: "safe",
  };
  const ONCE = new Set(["x", ...verdicts.WORDS.map((word) => word[0])]);
  const LONGEST_MESSAGE = 1000; // characters
  const TILES = { min: 80, max: 320, step: 10 };
  const number = new Intl.NumberFormat("en");
  const within = (value, least, most) => Math.min(most, Math.max(least, value));
  const isWithin = (value, least, most) => Number.isFinite(value) && value >= least && value <= most;
  const FITS = {
    view: (value) => value === "side" || value === "overlay",
    layers: (value) => Array.isArray(value) && value.every((layer) => LAYERS.includes(layer)),
    overlay: (value) => LAYERS.includes(value),
    tile: (value) => isWithin(value, TILES.min, TILES.max),
    opacity: (value) => isWithin(value, 0, 100),
    palette: (value) => value === "safe" || value === "voc",
  };

  // The stored values are checked, since any page that is opened from disk may have written them.
  function keptPreferences() {
    const kept = Object.entries(verdicts.preferences() ?? {}).filter(([key, value]) => Object.hasOwn(FITS, key) && FITS[key](value));
    return { ...PREFERENCES, ...Object.fromEntries(kept) };
  }

  function usePreferences() {
    const [values, setValues] = useState(keptPreferences);
    const prefer = (change) => setValues((before) => {
      const after = { ...before, ...change };
      verdicts.keepPreferences(after);
      return after;
    });
    return [values, prefer];
  }

  // Text of a file or an address within a message: what is not printable as an escape, since a mark of direction could
  // turn the words beside it around, and the beginning of a long one.
  function printable(text) {
    const begin = text.length > LONGEST_MESSAGE ? text.slice(0, LONGEST_MESSAGE) + " ..." : text;
    return begin.replace(/[\p{C}\p{Zl}\p{Zp}]/gu, (letter) => `\\u{${letter.codePointAt(0).toString(16)}}`);
  }

  function idOfAddress() {
    try {
      return decodeURIComponent(location.hash.slice(1));
    } catch (error) {
      return ""; // the address contains a stray %
    }
  }

  function App() {
    const [preferences, prefer] = usePreferences();
    const [asked, setAsked] = useState(selection.kept);
    const [loaded, setLoaded] = useState(0);
    const [marks, setMarks] = useState(0);
    const [current, setCurrent] = useState(null);
    const [large, setLarge] = useState(false);
    const [help, setHelp] = useState(false);
    const [hidden, setHidden] = useState(new Set());
    const [message, setMessage] = useState(null); // {text, done}
    const [wanted, setWanted] = useState(idOfAddress); // the id in the address, until its list has loaded
    const address = useRef(location.hash); // the last address that was handled
    const columns = useRef(1);
    const lastMarked = useRef(null);
    const place = useRef(0); // position of the current image among the shown ones, or its last position
    const note = useRef(null);
    const tiles = useRef(null);
    const search = useRef(null);
    const file = useRef(null);
    const { view, layers, overlay, tile, opacity, palette } = preferences;

    const there = useMemo(() => LAYERS.filter((layer) => images.some((entry) => entry.has(layer))), [loaded]);
    const measures = useMemo(() => selection.measures(images), [loaded]);
    const filter = useMemo(() => selection.fitting(asked, measures), [asked, measures]);
    const shown = useMemo(() => selection.select(images, filter), [filter, loaded, filter.verdict && marks]);
    const chosen = useMemo(() => LAYERS.filter((layer) => layers.includes(layer)), [layers]);

    useEffect(() => {
      loadLists(() => setLoaded((count) => count + 1));
      const followed = () => {
        address.current = location.hash;
        setWanted(idOfAddress());
        // An empty address, as after the browser's Back, closes the large view.
        if (!idOfAddress()) setLarge(false);
      };
      window.addEventListener("hashchange", followed);
      const unfollow = verdicts.follow(() => setMarks((count) => count + 1));
      return () => {
        window.removeEventListener("hashchange", followed);
        unfollow();
      };
    }, []);

    // In the large view the address names the image. A new address whose hashchange event is still to come is kept.
    const subject = large ? current : null;
    const writeAddress = () => {
      if (location.hash !== address.current) return;
      history.replaceState(null, "", addressOf(subject));
      address.current = location.hash;
    };
    // Opens the image that the address names, even if the filters leave it out.
    useEffect(() => {
      const entry = wanted && images.find((one) => one?.id === wanted);
      if (entry) open(entry);
      else if (wanted && loaded >= facts.lists) {
        setMessage({ text: `No image on this page has the id ${wanted}.`, done: false });
        writeAddress();
      } else return;
      setWanted("");
    }, [wanted, loaded]);
    useEffect(() => {
      if (loaded && !wanted) writeAddress();
    }, [subject]);

    // If the current image is no longer shown, the one at its position becomes current; the large view keeps its image.
    const position = shown.indexOf(current);
    if (position >= 0) place.current = position;
    useLayoutEffect(() => {
      if (position < 0 && !large) setCurrent(shown[within(place.current, 0, shown.length - 1)] ?? null);
    }, [shown, large, current]);

    const open = (entry) => {
      setMessage(null);
      setCurrent(entry);
      setLarge(true);
    };
    const move = (step) => {
      // If the current image is no longer shown, the next one is at its position already.
      const from = position < 0 && step > 0 ? place.current - 1 : place.current;
      if (shown.length) setCurrent(shown[within(from + step, 0, shown.length - 1)]);
    };
    const moveRow = (step) => {
      const after = place.current + step * columns.current;
      if (large || columns.current === 1) move(step);
      else if (after >= 0 && after < shown.length) move(step * columns.current);
    };
    const marked = () => setMarks((count) => count + 1);
    const mark = (entry, verdict) => {
      verdicts.set(entry.id, verdict);
      lastMarked.current = entry;
      marked();
    };
    const write = (entry, text) => {
      verdicts.setNote(entry.id, text);
      lastMarked.current = entry;
      marked();
    };
    // Takes back the last marked image if a filter has replaced it by another as the current one.
    const takeBack = () => {
      const entry = current && verdicts.canTakeBack(current.id) ? current : lastMarked.current;
      if (!entry) return;
      verdicts.takeBack(entry.id);
      if (entry !== current) {
        setMessage({ text: `${entry.id}: ${verdicts.get(entry.id).verdict || "no verdict"} again.`, done: true });
      }
      marked();
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
    const recolor = () => prefer({ palette: palette === "safe" ? "voc" : "safe" });
    const fade = (step) => prefer({ opacity: within(opacity + step, 0, 100) });
    const grow = (step) => prefer({ tile: within(tile + step, TILES.min, TILES.max) });
    // Runs an action after the next rendering.
    const soon = (action) => requestAnimationFrame(() => requestAnimationFrame(action));

    const keys = [
      ["j, \u2192", "next image", { j: () => move(1), ArrowRight: () => move(1) }],
      ["k, \u2190", "previous image", { k: () => move(-1), ArrowLeft: () => move(-1) }],
      ["\u2193, \u2191", "the image below, above", {
        ArrowDown: () => moveRow(1),
        ArrowUp: () => moveRow(-1),
      }],
      ["Home, End", "first, last image", { Home: () => move(-images.length), End: () => move(images.length) }],
      ["Enter", "large view", { Enter: () => current && setLarge(true) }],
      ["Esc", "back; leave a field", {}],
      [`1 to ${LAYERS.length}`, "layers on and off (overlay: the one layer): " + Object.values(facts.layers).join(", "),
        Object.fromEntries(LAYERS.map((layer, before) => [before + 1, () => toggle(layer)]))],
      ["v", "side by side, or overlay", { v: () => !large && prefer({ view: view === "side" ? "overlay" : "side" }) }],
      ["c", "colors: safe for the color-blind, or VOC's", { c: recolor }],
      ["[ or , and ] or .", "overlay's opacity", { "[": () => fade(-5), ",": () => fade(-5), "]": () => fade(5), ".": () => fade(5) }],
      ["- and +", "smaller, larger tiles", { "-": () => grow(-TILES.step), "+": () => grow(TILES.step) }],
      ["g, b, u", "verdict good, bad, unsure",
        Object.fromEntries(verdicts.WORDS.map((word) => [word[0], () => current && mark(current, word)]))],
      ["x", "take verdict and note back; again: undo that", { x: takeBack }],
      ["n", "note", {
        n: () => {
          if (!current) return;
          setLarge(true);
          soon(() => note.current?.focus());
        },
      }],
      ["Shift + arrows", "large view: move the place that is read out by a pixel, with Ctrl by ten", {}],
      ["Page up, down, Space", "large view: scroll its layers", {}],
      ["/", "search", {
        "/": () => {
          setLarge(false);
          soon(() => search.current.focus());
        },
      }],
      ["?", "these keys", { "?": () => setHelp(true) }],
    ];
    const actions = Object.assign({}, ...keys.map(([, , ofKeys]) => ofKeys));
    const places = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1] };

    const pressed = useRef(null);
    pressed.current = (event) => {
      const { target } = event;
      // Letters are compared in lower case, so that the keys work with CapsLock.
      const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
      if (event.metaKey || help) return;
      if (large && event.shiftKey && !event.altKey && places[key] && recall(current.number) && !target.matches("textarea")) {
        event.preventDefault();
        const [dx, dy] = places[key].map((step) => event.ctrlKey ? 10 * step : step);
        moveProbe(current, recall(current.number), dx, dy);
        return;
      }
      // AltGr, by which some keyboards type [ and ], counts as Ctrl and Alt.
      if ((event.ctrlKey || event.altKey) && !event.getModifierState("AltGraph")) return;
      const typing = target.matches("textarea, select, input:not([type=checkbox], [type=radio], [type=range])");
      if (key === "Escape" && typing) {
        event.preventDefault();
        target.blur();
        return;
      }
      if (typing) return;
      const popup = document.querySelector("header details[open]");
      if (key === "Escape" && popup && !large) {
        popup.open = false;
        popup.querySelector("summary").focus();
        return;
      }
      // These controls handle the following keys themselves.
      if (target.matches("button, summary, a") && key === "Enter") return;
      if (target.matches("[type=range], [type=radio]") && (key.startsWith("Arrow") || key === "Home" || key === "End")) return;
      const pages = { PageDown: 1, PageUp: -1, " ": event.shiftKey ? -1 : 1 }[key];
      if (large && pages && !(key === " " && target.matches("button, input"))) {
        event.preventDefault();
        tiles.current.scrollBy({ top: 0.9 * pages * tiles.current.clientHeight });
        return;
      }
      if (!Object.hasOwn(actions, key)) return;
      event.preventDefault();
      // A key that is held down must not mark images that nobody has looked at.
      if (event.repeat && ONCE.has(key)) return;
      setMessage(null);
      actions[key]();
    };
    useEffect(() => {
      const listener = (event) => pressed.current(event);
      document.addEventListener("keydown", listener);
      return () => document.removeEventListener("keydown", listener);
    }, []);

    const change = (key) => (event) => {
      const after = { ...asked, [key]: event.target.value };
      setMessage(null);
      setAsked(after);
      selection.keep(after);
      // The first image becomes current if the current one is no longer shown, and always after sorting.
      place.current = 0;
      if (key === "sort" || key === "order") setCurrent(null);
    };
    const choice = (key, options) => html`
      <select name=${key} value=${filter[key]} onInput=${change(key)}>
        ${options.map(([value, text]) => html`<option key=${value} value=${value}>${text}</option>`)}
      </select>`;
    const upload = async (event) => {
      const [picked] = event.target.files;
      setMessage(null); // that of an earlier import
      if (picked) setMessage(await verdicts.upload(picked));
      event.target.value = "";
      marked();
    };
    const warnings = [verdicts.warning(), ...problems].filter(Boolean);
    // Messages are shown in the large view while it is open, since it covers everything else.
    const told = html`
      ${warnings.map((text) => html`<p class="problem" role="alert" key=${text}>${text}</p>`)}
      ${message && html`<p class=${message.done ? "done" : "problem"} role=${message.done ? "status" : "alert"}>
        ${printable(message.text)} <button type="button" aria-label="close the message" onClick=${() => setMessage(null)}>\u00d7</button></p>`}`;
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
          <${Layers} ...${{ there, toggle }} one=${view === "overlay"}
            isOn=${(layer) => view === "side" ? layers.includes(layer) : overlay === layer} />
        </div>
        <div class="line">
          ${view === "overlay" && html`<label>Opacity <input type="range" min="0" max="100" step="5" value=${opacity}
            onInput=${(event) => prefer({ opacity: Number(event.target.value) })} /></label>`}
          <label>Size <input type="range" ...${TILES} value=${tile} onInput=${(event) => prefer({ tile: Number(event.target.value) })} /></label>
          <label><input type="checkbox" checked=${palette === "voc"} onChange=${recolor} /> VOC colors</label>
          <output class="count" aria-live="polite">${number.format(shown.length)} of ${number.format(facts.images)} images</output>
          <span class="buttons">
            ${verdicts.counted(verdicts.count(), "verdict")}
            <button type="button" onClick=${() => verdicts.download("json")}>Export JSON</button>
            <button type="button" onClick=${() => verdicts.download("csv")}>Export CSV</button>
            <button type="button" onClick=${() => file.current.click()}>Import</button>
            <input ref=${file} type="file" accept=".json,.csv" hidden onChange=${upload} />
            <button type="button" onClick=${() => setHelp(true)}>Keys <kbd>?</kbd></button>
          </span>
        </div>
        ${!large && told}
      </form>
      <div class="view" style=${{ "--opacity": opacity / 100 }}>
        <${Gallery} images=${shown} layers=${chosen} setColumns=${(count) => { columns.current = count; }}
          ...${{ view, overlay, tile, palette, current, select: setCurrent, open }} />
      </div>
      <footer><${CommonLegend} rules=${there.includes("rules")} /></footer>
      ${!large && !help && html`<${Hint} />`}
      <p class="hidden" role="status">${current ? `${current.id} ${verdicts.get(current.id).verdict}` : ""}</p>
      ${large && current && html`<${Detail} entry=${current} place=${position + 1} count=${number.format(shown.length)}
        setOpacity=${(value) => prefer({ opacity: value })} close=${() => setLarge(false)} noteRef=${note}
        tilesRef=${tiles} ...${{ told, there, hidden, toggle, palette, opacity, move, mark, write }} />`}
      ${help && html`<${Help} keys=${keys} close=${() => setHelp(false)} />`}`;
  }

  // After a scroll the pointer is over another element.
  document.addEventListener("scroll", () => probe.at && probe.set(null), { capture: true, passive: true });
  document.getElementById("app").replaceChildren();
  preact.render(html`<${App} />`, document.getElementById("app"));
})();
