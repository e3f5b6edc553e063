"use strict";

// What this browser's user says of the images: kept in the browser, exported and imported as a file.
getamAudit.verdicts = (() => {
  const { facts } = getamAudit;
  const WORDS = ["good", "bad", "unsure"];
  const KEY = `getam-audit:${facts.run}:${facts.key}`;
  const PREFERENCES = "getam-audit:preferences";

  const said = new Map(); // id -> {verdict, note}; a Map, since an id may be __proto__
  let warning = "";

  // Storage may be switched off, or full: the page works without, and says so.
  function store(key, text) {
    try {
      localStorage.setItem(key, text);
      warning = "";
    } catch (error) {
      warning = "This browser keeps no verdicts (its storage is off or full): export them before you close the page.";
    }
  }

  function stored(key) {
    try {
      return JSON.parse(localStorage.getItem(key));
    } catch (error) {
      return null;
    }
  }

  const get = (id) => said.get(id) ?? { verdict: "", note: "" };

  function set(id, verdict, note) {
    // A note alone is no verdict; what is worth a note is not sure yet.
    if (verdict || note) said.set(id, { verdict: verdict || "unsure", note });
    else said.delete(id);
    save();
  }

  const entries = () => [...said].map(([id, { verdict, note }]) => ({ id, verdict, note }));
  const save = () => store(KEY, JSON.stringify(entries()));

  function take(list) {
    if (!Array.isArray(list)) return 0;
    let taken = 0;
    for (const entry of list) {
      const { id, verdict, note = "" } = entry ?? {};
      if (typeof id !== "string" || typeof note !== "string" || !WORDS.includes(verdict)) continue;
      said.set(id, { verdict, note });
      taken++;
    }
    return taken;
  }

  const quoted = (text) => /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;

  function asText(format) {
    if (format === "json") return JSON.stringify({ run: facts.run, verdicts: entries() }, null, 2) + "\n";
    const lines = entries().map(({ id, verdict, note }) => [id, verdict, note].map(quoted).join(","));
    return ["id,verdict,note", ...lines, ""].join("\n");
  }

  function download(format) {
    const type = format === "json" ? "application/json" : "text/csv";
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([asText(format)], { type }));
    link.download = `verdicts-${facts.run}.${format}`;
    link.click();
    // The download reads it after this.
    setTimeout(() => URL.revokeObjectURL(link.href), 60000);
  }

  // Takes an exported JSON file; gives what to tell of it.
  async function upload(file) {
    let content;
    try {
      content = JSON.parse(await file.text());
    } catch (error) {
      return `${file.name} is no JSON: import a file that this page has exported as JSON.`;
    }
    const list = content?.verdicts;
    if (!Array.isArray(list)) return `${file.name} holds no verdicts: import a file that this page has exported as JSON.`;
    const taken = take(list);
    save();
    const other = content.run === facts.run ? "" : ` The file is of the run ${content.run}.`;
    const skipped = list.length - taken ? ` ${list.length - taken} entries were no verdicts.` : "";
    return `${taken} verdicts imported from ${file.name}.${skipped}${other}`;
  }

  take(stored(KEY));
  save();

  return {
    WORDS,
    get,
    set,
    download,
    upload,
    count: () => said.size,
    warning: () => warning,
    preferences: () => stored(PREFERENCES) ?? {},
    keepPreferences: (values) => store(PREFERENCES, JSON.stringify(values)),
  };
})();
