"use strict";

// The data of the page: facts from index.html, and lists and images from scripts that call list() and image() below.
// A page that is opened from disk may load scripts but no data files.
window.getamAudit = (() => {
  const facts = JSON.parse(document.getElementById("audit").textContent);
  const LAYERS = Object.keys(facts.layers);
  const HELD = 32; // number of images whose data are kept, some 80 kB each
  const AT_ONCE = 6; // number of scripts that load at the same time

  const images = []; // entries of the lists, in their order
  const received = new WeakMap(); // script -> the data that it passed on
  const held = new Map(); // number -> record, the latest used last
  const waiting = new Map(); // number -> callbacks
  const loading = new Set(); // numbers
  const problems = [];

  // Called by the scripts.
  const list = (rows) => received.set(document.currentScript, rows);
  const image = (content) => received.set(document.currentScript, content);

  function addImages(rows) {
    for (const row of rows) {
      const entry = Object.fromEntries(facts.columns.map((name, position) => [name, row[position]]));
      entry.has = (layer) => (entry.layers >> LAYERS.indexOf(layer)) % 2 === 1;
      entry.text = [entry.id, ...entry.labels.map((value) => facts.classes[value])].join("\n").toLowerCase();
      images[entry.number] = entry;
    }
  }

  const stem = (number) => "images/" + Math.floor(number / 1000) + "/" + number;

  // The data that a script passes on; undefined if it is missing or damaged.
  function load(source) {
    return new Promise((resolve) => {
      const script = document.createElement("script");
      script.src = source;
      const done = () => {
        script.remove();
        resolve(received.get(script));
      };
      script.onload = done;
      script.onerror = done;
      document.head.append(script);
    });
  }

  const damaged = (what) => `${what} missing or damaged`;
  const REMEDY = "Copy the whole folder audit/, or run the stage audit again.";

  // Loads one list after the other, so that the first is shown at once.
  async function loadLists(update) {
    const missing = [];
    for (let number = 0; number < facts.lists; number++) {
      const source = "lists/" + String(number).padStart(3, "0") + ".js";
      const rows = await load(source);
      if (Array.isArray(rows) && rows.every((row) => row.length === facts.columns.length)) addImages(rows);
      else {
        const first = number * facts.perList + 1, last = Math.min((number + 1) * facts.perList, facts.images);
        missing.push({ source, first, last });
        problems.splice(0, 1, unlisted(missing));
      }
      update();
    }
  }

  // One message for all missing lists.
  function unlisted(missing) {
    const [{ source, first, last }] = missing;
    if (missing.length === 1) return `${damaged(source + " is")}: images ${first} to ${last} are not shown. ${REMEDY}`;
    const images = missing.reduce((sum, list) => sum + list.last - list.first + 1, 0);
    return `${damaged(`${source} and ${missing.length - 1} more lists are`)}: ${images} images are not shown. ${REMEDY}`;
  }

  // Calls back with the image's record, or with {problem}; returns a function that cancels the request.
  function request(number, callback) {
    if (!waiting.has(number)) waiting.set(number, new Set());
    waiting.get(number).add(callback);
    // Loading is delayed, so that images that scroll past are cancelled before they load.
    setTimeout(loadNext, 30);
    return () => {
      waiting.get(number)?.delete(callback);
      if (waiting.get(number)?.size === 0) waiting.delete(number);
    };
  }

  async function loadNext() {
    // The latest request comes first, since it is in view now.
    const number = [...waiting.keys()].reverse().find((key) => !loading.has(key));
    if (number === undefined || loading.size >= AT_ONCE) return;
    loading.add(number);
    const content = await load(stem(number) + ".js");
    loading.delete(number);
    const record = fits(images[number], content) ? keep(number, content) : { problem: problemOf(number) };
    const callbacks = waiting.get(number) ?? [];
    waiting.delete(number);
    for (const callback of callbacks) callback(record);
    loadNext();
  }

  const problemOf = (number) => `${damaged(`${stem(number)}.js is`)}. ${REMEDY}`;

  // Whether a script's data contain the layers that the list announces.
  function fits(entry, content) {
    if (!Array.isArray(content?.classes) || !content.photograph) return false;
    return tilesOf(entry, LAYERS).every((tile) => tile.layer === "photograph" || sourceOf(content, tile)?.data);
  }

  // `users` are called if a layer turns out to be damaged; the record then has a `problem`.
  function keep(number, content) {
    const record = { ...content, number, users: new Set() };
    held.set(number, record);
    for (const oldest of [...held.keys()].slice(0, -HELD)) held.delete(oldest);
    return record;
  }

  function recall(number) {
    const record = held.get(number);
    if (record) {
      held.delete(number);
      held.set(number, record);
    }
    return record ?? null;
  }

  // The tiles of an image: one for each layer, but for raw and refined maps one for each class; `value` is its label value.
  function tilesOf(entry, layers) {
    return layers.filter(entry.has).flatMap((layer) => layer === "raw" || layer === "refined"
      ? entry.labels.map((value, position) => ({ layer, position, value }))
      : [{ layer, position: 0 }]);
  }

  const nameOf = ({ layer, value }) => value === undefined ? facts.layers[layer]
    : `${facts.layers[layer].replace(" maps", "")}: ${facts.classes[value]}`;

  // The encoded data of a tile; position -1 stands for the strongest of an image's maps.
  function sourceOf(record, { layer, position }) {
    if (layer === "raw" || layer === "refined") return position < 0 ? record[layer] : record[layer]?.[position];
    return layer === "saliency" ? record.saliency : record.labels?.[layer];
  }

  // Decodes a tile to {width, height, values}, for the strongest map also `which` map it is at each pixel; null if it is
  // damaged. The next call reuses the arrays: new ones would fill the memory in a fast scroll.
  function decode(record, tile) {
    const source = sourceOf(record, tile);
    try {
      return Array.isArray(source) ? strongest(source) : unpack(source, 0);
    } catch (error) {
      fail(record);
      return null;
    }
  }

  function fail(record) {
    record.problem = problemOf(record.number);
    for (const tell of record.users) tell();
  }

  // The photograph at a size, or null if it is damaged. It is no <img>, since browsers keep 80 MB of decoded ones, and as
  // much again of their files while the developer tools are open.
  async function photograph(record, width, height) {
    try {
      const jpeg = new Blob([bytesOf(record.photograph)]); // a copy
      return await createImageBitmap(jpeg, { resizeWidth: width, resizeHeight: height, resizeQuality: "medium" });
    } catch (error) {
      fail(record);
      return null;
    }
  }

  // The bytes of base64 text, in an array that the next call reuses.
  function bytesOf(text) {
    const characters = atob(text);
    const bytes = reused(3, characters.length);
    for (let i = 0; i < bytes.length; i++) bytes[i] = characters.charCodeAt(i);
    return bytes;
  }

  // The result of `decode`, kept as long as the same image is probed.
  let kept = { record: null, layers: new Map() };
  function decodeToKeep(record, tile) {
    if (kept.record !== record) kept = { record, layers: new Map() };
    const key = tile.layer + tile.position;
    if (!kept.layers.has(key)) {
      const layer = decode(record, tile);
      kept.layers.set(key, layer && { ...layer, values: layer.values.slice(), which: layer.which?.slice() });
    }
    return kept.layers.get(key);
  }

  const arrays = [];
  function reused(place, length) {
    if (!(arrays[place]?.length >= length)) arrays[place] = new Uint8Array(length);
    return arrays[place].subarray(0, length);
  }

  function strongest(maps) {
    const { width, height, values } = unpack(maps[0], 0);
    const which = reused(1, values.length).fill(0);
    for (let position = 1; position < maps.length; position++) {
      const map = unpack(maps[position], 2).values;
      for (let i = 0; i < values.length; i++) {
        if (map[i] > values[i]) {
          values[i] = map[i];
          which[i] = position;
        }
      }
    }
    return { width, height, values, which };
  }

  // The values of a layer, from base64 text: deflated differences of each row to the one above, modulo 256.
  function unpack({ width, height, data }, place) {
    const values = reused(place, width * height);
    getamAudit.inflate(bytesOf(data), values);
    for (let i = width; i < values.length; i++) values[i] += values[i - width];
    return { width, height, values };
  }

  return { facts, LAYERS, images, problems, list, image, loadLists, request, recall, tilesOf, nameOf, decode, decodeToKeep,
    photograph };
})();
