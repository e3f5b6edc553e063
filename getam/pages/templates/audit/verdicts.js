"use strict";

// What this browser's user says of the images: kept in the browser, exported and imported as a file.
getamAudit.verdicts = (() => {
  const { facts, images } = getamAudit;
  const WORDS = ["good", "bad", "unsure"];
  const KEY = `getam-audit:${facts.run}:${facts.key}`;
  const PREFERENCES = "getam-audit:preferences";
  const LONGEST_NOTE = 100000; // characters; Python's csv reads fields of up to 131072

  let said = new Map(); // id -> {verdict, note}; a Map, since an id may be __proto__
  let kept = true; // whether the storage has all of them
  const pending = new Map(); // id -> the same, or null for none: what the storage has not
  const implied = new Set(); // ids that are unsure because of their note alone
  const takenBack = new Map(); // id -> what was said of it

  function stored(key) {
    try {
      return JSON.parse(localStorage.getItem(key));
    } catch (error) {
      return null;
    }
  }

  const isVerdict = (entry) => typeof entry?.id === "string" && WORDS.includes(entry.verdict)
    && typeof (entry.note ?? "") === "string" && (entry.note ?? "").length <= LONGEST_NOTE;

  // From the storage, to which other tabs write too.
  function read() {
    const list = stored(KEY);
    said = new Map();
    for (const { id, verdict, note = "" } of Array.isArray(list) ? list.filter(isVerdict) : []) said.set(id, { verdict, note });
    for (const [id, entry] of pending) {
      if (entry) said.set(id, entry);
      else said.delete(id);
    }
  }

  // Storage may be switched off, or full: the page works without, and says so.
  function change(entries) {
    for (const [id, entry] of entries) pending.set(id, entry);
    read();
    try {
      localStorage.setItem(KEY, JSON.stringify(listed()));
      pending.clear();
      kept = true;
    } catch (error) {
      kept = false;
    }
  }

  function keepPreferences(values) {
    try {
      localStorage.setItem(PREFERENCES, JSON.stringify(values));
    } catch (error) {
      // What is lost is nobody's work.
    }
  }

  const get = (id) => said.get(id) ?? { verdict: "", note: "" };
  const listed = () => [...said].map(([id, { verdict, note }]) => ({ id, verdict, note }));

  function say(id, verdict, note) {
    // A note alone is no verdict; what is worth a note is not sure yet.
    if (!verdict && note) implied.add(id);
    else implied.delete(id);
    takenBack.delete(id);
    change([[id, verdict || note ? { verdict: verdict || "unsure", note } : null]]);
  }

  const set = (id, verdict) => say(id, verdict, get(id).note);

  function setNote(id, note) {
    const { verdict } = get(id);
    say(id, verdict === "unsure" && implied.has(id) ? "" : verdict, note);
  }

  const canTakeBack = (id) => said.has(id) || takenBack.has(id);

  // A note may be long: the second time, it all comes back.
  function takeBack(id) {
    const before = said.get(id);
    const after = before ? null : takenBack.get(id);
    if (before) takenBack.set(id, before);
    if (before || after) change([[id, after]]);
  }

  const quoted = (text) => /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  // A spreadsheet takes what begins so for a formula. One apostrophe more, which _read_csv of getam/runs/verdicts.py takes off.
  const asWords = (text) => /^'*[=+\-@]/.test(text) ? `'${text}` : text;
  const fromWords = (text) => /^'+[=+\-@]/.test(text) ? text.slice(1) : text;

  function asText(format) {
    if (format === "json") return JSON.stringify({ run: facts.run, verdicts: listed() }, null, 2) + "\n";
    const lines = listed().map(({ id, verdict, note }) => [asWords(id), verdict, asWords(note)].map(quoted).join(","));
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

  // The rows of a CSV file, objects by its head; null where a quote is not closed, or the head is another.
  function readCsv(text) {
    const field = /(?:"([^"]*(?:""[^"]*)*)"|([^",\r\n]*))(,|\r\n|\n|\r|$)/y;
    const rows = [[]];
    while (field.lastIndex < text.length) {
      const found = field.exec(text);
      if (!found) return null;
      const [, inQuotes, plain, end] = found;
      rows.at(-1).push(inQuotes === undefined ? plain : inQuotes.replaceAll('""', '"'));
      if (end !== ",") rows.push([]);
    }
    const [head, ...lines] = rows;
    if (!head.includes("id") || !head.includes("verdict")) return null;
    return lines.filter((line) => line.some(Boolean)).map((line) => {
      const { id, verdict, note } = Object.fromEntries(head.map((name, position) => [name, line[position]]));
      return { id: id && fromWords(id), verdict, note: note && fromWords(note) };
    });
  }

  // {run, verdicts} of an exported file; undefined where it is none.
  async function readFile(file) {
    const text = await file.text();
    if (file.name.toLowerCase().endsWith(".csv")) return { verdicts: readCsv(text) };
    try {
      return JSON.parse(text);
    } catch (error) {
      return undefined;
    }
  }

  const counted = (count, one, many = one + "s") => `${count.toLocaleString("en")} ${count === 1 ? one : many}`;

  // Takes an exported file; gives {text, done}: what to tell of it, and whether it holds anything.
  async function upload(file) {
    const content = await readFile(file);
    const list = content?.verdicts;
    if (!Array.isArray(list)) {
      return { text: `${file.name} holds no verdicts: import a file that this page has exported.`, done: false };
    }
    const here = new Set(images.map((entry) => entry.id));
    const taken = new Map();
    const elsewhere = new Set(), contradicted = new Set();
    for (const { id, verdict, note } of list.filter(isVerdict)) {
      if ((taken.get(id)?.verdict ?? verdict) !== verdict) contradicted.add(id);
      implied.delete(id);
      if (here.has(id)) taken.set(id, { verdict, note: note || get(id).note });
      else elsewhere.add(id);
    }
    const replaced = [...taken].filter(([id, { verdict, note }]) =>
      said.has(id) && (get(id).verdict !== verdict || get(id).note !== note)).length;
    const wrong = list.length - list.filter(isVerdict).length;
    change(taken);
    const told = [`${counted(taken.size, "verdict")} imported from ${file.name}.`];
    if (replaced) told.push(`${counted(replaced, "verdict")} of before replaced.`);
    if (contradicted.size) told.push(`${counted(contradicted.size, "id has", "ids have")} two verdicts: the last counts.`);
    if (elsewhere.size) told.push(`${counted(elsewhere.size, "id is", "ids are")} not on this page.`);
    if (wrong) told.push(`${counted(wrong, "entry was no verdict", "entries were no verdicts")}.`);
    if (typeof content.run === "string" && content.run !== facts.run) told.push(`The file is of the run ${content.run}.`);
    return { text: told.join(" "), done: taken.size > 0 };
  }

  // Calls back when another tab has changed something.
  function follow(callback) {
    const changed = ({ key }) => {
      if (key !== KEY && key !== null) return;
      const before = said;
      read();
      for (const id of implied) {
        if (said.get(id)?.verdict !== before.get(id)?.verdict || said.get(id)?.note !== before.get(id)?.note) implied.delete(id);
      }
      callback();
    };
    window.addEventListener("storage", changed);
    return () => window.removeEventListener("storage", changed);
  }

  change([]); // whether it can be stored at all

  return {
    WORDS,
    LONGEST_NOTE,
    get,
    set,
    setNote,
    canTakeBack,
    takeBack,
    download,
    upload,
    follow,
    counted,
    count: () => said.size,
    warning: () => kept ? ""
      : "This browser keeps no verdicts (its storage is off or full): export them before you close the page.",
    preferences: () => stored(PREFERENCES),
    keepPreferences,
  };
})();
