"use strict";

// The user's verdicts on images: kept in the browser, exported and imported as files.
getamAudit.verdicts = (() => {
  const { facts, images } = getamAudit;
  const WORDS = ["good", "bad", "unsure"];
  const KEY = `getam-audit:${facts.run}:${facts.key}`;
  const PREFERENCES = "getam-audit:preferences";
  const LONGEST_NOTE = 100000; // characters; Python's csv reads fields of up to 131072

  const MOST_BYTES = 32e6; // of a file, as in getam/settings/foreign.py
  const MOST_FIELDS = 2e6; // of a CSV file, which has three for each image

  let said = new Map(); // id -> {verdict, note}; a Map, since an id may be __proto__
  let kept = true; // whether the storage holds all verdicts
  const pending = new Map(); // id -> {verdict, note} or null for none: changes that the storage does not hold yet
  const implied = new Set(); // ids that are unsure because of their note alone
  const takenBack = new Map(); // id -> the {verdict, note} that was taken back

  function stored(key) {
    try {
      return JSON.parse(localStorage.getItem(key));
    } catch (error) {
      return null;
    }
  }

  const isVerdict = (entry) => typeof entry?.id === "string" && WORDS.includes(entry.verdict)
    && typeof (entry.note ?? "") === "string" && (entry.note ?? "").length <= LONGEST_NOTE;

  // Reads the storage, to which other tabs write as well.
  function read() {
    const list = stored(KEY);
    said = new Map();
    for (const { id, verdict, note } of Array.isArray(list) ? list.filter(isVerdict) : []) said.set(id, { verdict, note: note ?? "" });
    for (const [id, entry] of pending) {
      if (entry) said.set(id, entry);
      else said.delete(id);
    }
  }

  // The storage may be off or full: the page works without it, and shows a warning.
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
      // Losing preferences costs nobody any work.
    }
  }

  const get = (id) => said.get(id) ?? { verdict: "", note: "" };
  const listed = () => [...said].map(([id, { verdict, note }]) => ({ id, verdict, note }));

  function say(id, verdict, note) {
    // A note without a verdict implies the verdict `unsure`.
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

  // Taking back a second time restores verdict and note, since a note may have taken long to write.
  function takeBack(id) {
    const before = said.get(id);
    const after = before ? null : takenBack.get(id);
    if (before) takenBack.set(id, before);
    if (before || after) change([[id, after]]);
  }

  const quoted = (text) => /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  // A spreadsheet reads text that starts like this as a formula; where cells end at semicolons or tabs, as in some
  // languages, or at a line feed that no longer stands within quotes, text behind one as well. An apostrophe in front
  // prevents it; getam/system/names.py has the same letters.
  const BLANKS = "['\\0-\\x08\\v\\f\\x0e- \\x7f-\\xa0\\u2000-\\u200f\\u2028-\\u202f\\u205f-\\u206f\\u3000\\ufeff]*";
  const FORMULAS = "[=+\\-@\\uff1d\\uff0b\\uff0d\\uff20]";
  const WORDS_HERE = new RegExp(`(^|[;\\t\\r\\n])(?=${BLANKS}${FORMULAS})`, "g");
  const APOSTROPHES = new RegExp(`(^|[;\\t\\r\\n])'(?=${BLANKS}${FORMULAS})`, "g");
  const asWords = (text) => text.replace(WORDS_HERE, "$1'");
  const fromWords = (text) => text.replace(APOSTROPHES, "$1");

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
    // The browser reads the URL after this function returns.
    setTimeout(() => URL.revokeObjectURL(link.href), 60000);
  }

  // Parses a CSV file into objects by its header; null if a quote is not closed, a column is missing, or it is too long.
  function readCsv(text) {
    const plain = /[^",\r\n]*/y, end = /,|\r\n|\n|\r|$/y;
    const rows = [[]];
    let at = 0, fields = 0;
    while (at < text.length) {
      if (++fields > MOST_FIELDS) return null;
      if (text[at] === '"') {
        // A pattern for the whole field would need more stack than there is for a field of many quotes.
        let close = text.indexOf('"', at + 1);
        while (close >= 0 && text[close + 1] === '"') close = text.indexOf('"', close + 2);
        if (close < 0) return null;
        rows.at(-1).push(text.slice(at + 1, close).replaceAll('""', '"'));
        at = close + 1;
      } else {
        plain.lastIndex = at;
        const [field] = plain.exec(text);
        rows.at(-1).push(field);
        at += field.length;
      }
      end.lastIndex = at;
      const found = end.exec(text);
      if (!found) return null;
      if (found[0] !== ",") rows.push([]);
      at += found[0].length;
    }
    const [head, ...lines] = rows;
    const [id, verdict, note] = ["id", "verdict", "note"].map((name) => head.lastIndexOf(name));
    if (id < 0 || verdict < 0) return null;
    return lines.filter((line) => line.some(Boolean)).map((line) =>
      ({ id: line[id] && fromWords(line[id]), verdict: line[verdict], note: line[note] && fromWords(line[note]) }));
  }

  // Parses an exported file to {run, verdicts}; undefined if it cannot be read or is not JSON.
  async function readFile(file) {
    try {
      const text = await file.text();
      return file.name.toLowerCase().endsWith(".csv") ? { verdicts: readCsv(text) } : JSON.parse(text);
    } catch (error) {
      return undefined;
    }
  }

  const counted = (count, one, many = one + "s") => `${count.toLocaleString("en")} ${count === 1 ? one : many}`;

  // Imports an exported file; returns {text, done}: a message, and whether any verdict was imported.
  async function upload(file) {
    if (file.size > MOST_BYTES) {
      return { text: `${file.name} is larger than ${MOST_BYTES / 1e6} MB: import a file that this page has exported.`, done: false };
    }
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

  // Calls back when another tab has changed the verdicts.
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

  change([]); // tests whether the storage can be written

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
