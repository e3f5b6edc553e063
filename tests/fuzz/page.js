"use strict";

// Reads files as the audit page does, by its own verdicts.js: a line of the standard input is {file, stored}, and is
// answered by a line {json, csv, seconds, bytes} with what the page exports then, or by {fault}.
const fs = require("node:fs");
const path = require("node:path");
const readline = require("node:readline");
const vm = require("node:vm");

const [, , source, run, ids] = process.argv;
const script = new vm.Script(fs.readFileSync(source, "utf8"), { filename: source });
// Of this process alone: resourceUsage begins with the peak of the process that has started it.
const peak = () => 1024 * Number(/VmHWM:\s+(\d+)/.exec(fs.readFileSync("/proc/self/status", "utf8"))[1]);
const before = peak();
const inherited = Object.getOwnPropertyNames(Object.prototype).length;

// The part of a browser that the script uses. What it downloads is left in `saved`.
const kept = new Map();
let saved;
globalThis.window = { addEventListener() {}, removeEventListener() {} };
Object.defineProperty(globalThis, "localStorage", {
  value: { getItem: (key) => kept.get(key) ?? null, setItem: (key, text) => kept.set(key, text) },
});
globalThis.document = { createElement: () => ({ click() {} }) };
URL.createObjectURL = (blob) => {
  saved = blob;
  return "";
};
globalThis.setTimeout = () => {};

function open() {
  globalThis.getamAudit = { facts: { run, key: "key" }, images: JSON.parse(ids).map((id) => ({ id })) };
  script.runInThisContext();
  return getamAudit.verdicts;
}

async function exported(verdicts, format) {
  verdicts.download(format);
  return await saved.text();
}

async function read({ file, stored }) {
  kept.clear();
  const content = fs.readFileSync(file);
  if (stored) kept.set(`getam-audit:${run}:key`, content.toString());
  const verdicts = open();
  if (!stored) {
    const { text, done } = await verdicts.upload(new File([content], path.basename(file)));
    if (typeof text !== "string" || text.length > 10000 || typeof done !== "boolean") throw new Error("no message");
  }
  const [json, csv] = [await exported(verdicts, "json"), await exported(verdicts, "csv")];
  // What the browser keeps is what is exported, and what is exported is imported as it was.
  if (await exported(open(), "json") !== json) throw new Error("kept otherwise than exported");
  for (const [format, text] of Object.entries(stored ? {} : { json, csv })) {
    kept.clear();
    const again = open();
    await again.upload(new File([text], `again.${format}`));
    if (await exported(again, "json") !== json) throw new Error(`imported otherwise than exported as ${format}`);
  }
  if (Object.getOwnPropertyNames(Object.prototype).length !== inherited) throw new Error("every object has a new property");
  return { json, csv };
}

(async () => {
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const started = process.cpuUsage();
    let answer;
    try {
      answer = await read(JSON.parse(line));
    } catch (error) {
      answer = { fault: String(error?.stack ?? error) };
    }
    const { user, system } = process.cpuUsage(started);
    const answered = { ...answer, seconds: (user + system) / 1e6, bytes: peak() - before };
    process.stdout.write(JSON.stringify(answered) + "\n");
  }
})();
