"use strict";

// What the page knows: facts of index.html, and lists and images by the scripts that call list() and image() below.
// A page that is opened from disk may load no data but scripts.
window.getamAudit = (() => {
  const facts = JSON.parse(document.getElementById("audit").textContent);
  const LAYERS = Object.keys(facts.layers);
  const HELD = 32; // images whose layers are kept
  const AT_ONCE = 6; // scripts that load side by side

  const images = []; // entries of the lists, in their order
  const received = new WeakMap(); // script -> what it has handed over
  const held = new Map(); // number -> record, the latest used last
  const waiting = new Map(); // number -> callbacks
  const loading = new Set(); // numbers
  const problems = [];

  // What the scripts call.
  const list = (rows) => received.set(document.currentScript, rows);
  const image = (content) => received.set(document.currentScript, content);

  function addImages(rows) {
    for (const row of rows) {
      const entry = Object.fromEntries(facts.columns.map((name, position) => [name, row[position]]));
      entry.has = (layer) => (entry.layers >> LAYERS.indexOf(layer)) % 2 === 1;
      entry.photograph = stem(entry.number) + ".jpg";
      entry.text = [entry.id, ...entry.labels.map((value) => facts.classes[value])].join("\n").toLowerCase();
      images[entry.number] = entry;
    }
  }

  const stem = (number) => "images/" + Math.floor(number / 1000) + "/" + number;

  // What a script hands over; undefined where it is missing or damaged.
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

  // One list after the other, so that the first is shown at once.
  async function loadLists(update) {
    for (let number = 0; number < facts.lists; number++) {
      const source = "lists/" + String(number).padStart(3, "0") + ".js";
      const rows = await load(source);
      if (rows) addImages(rows);
      else {
        const last = Math.min((number + 1) * facts.perList, facts.images);
        problems.push(`${source} is missing or damaged: images ${number * facts.perList + 1} to ${last} are not shown. ` +
          "Copy the whole folder audit/, or run the stage audit again.");
      }
      update();
    }
  }

  // Calls back with the image's record, or with {problem}; gives a function that calls that off.
  function request(number, callback) {
    if (!waiting.has(number)) waiting.set(number, new Set());
    waiting.get(number).add(callback);
    // Not at once: what scrolls past is called off before it loads.
    setTimeout(loadNext, 30);
    return () => {
      waiting.get(number)?.delete(callback);
      if (waiting.get(number)?.size === 0) waiting.delete(number);
    };
  }

  async function loadNext() {
    // The latest first: it is what is looked at now.
    const number = [...waiting.keys()].reverse().find((key) => !loading.has(key));
    if (number === undefined || loading.size >= AT_ONCE) return;
    loading.add(number);
    const source = stem(number) + ".js";
    const content = await load(source);
    loading.delete(number);
    const record = content ? keep(number, content) : {
      problem: `${source} is missing or damaged. Copy the whole folder audit/, or run the stage audit again.`,
    };
    const callbacks = waiting.get(number) ?? [];
    waiting.delete(number);
    for (const callback of callbacks) callback(record);
    loadNext();
  }

  function keep(number, content) {
    const record = { ...content, decoded: new Map(), ready: new Map() };
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

  // What is shown of an image: a layer, or of maps one of each class. `values` are label values.
  function tilesOf(entry, layers) {
    return layers.filter(entry.has).flatMap((layer) => layer === "raw" || layer === "refined"
      ? entry.labels.map((value, position) => ({ layer, position, value }))
      : [{ layer, position: 0 }]);
  }

  const nameOf = ({ layer, value }) => value === undefined ? facts.layers[layer]
    : `${facts.layers[layer].replace(" maps", "")}: ${facts.classes[value]}`;

  // {width, height, values} of a tile; position -1 is the strongest of an image's maps, and `which` its position.
  function decode(record, tile) {
    const key = tile.layer + tile.position;
    if (!record.decoded.has(key)) {
      record.decoded.set(key, read(record, tile).then((layer) => {
        record.ready.set(key, layer);
        return layer;
      }));
    }
    return record.decoded.get(key);
  }

  const ready = (record, tile) => record.ready.get(tile.layer + tile.position);

  async function read(record, { layer, position }) {
    if (layer === "saliency") return readPng(record.saliency);
    if (layer === "raw" || layer === "refined") {
      const maps = record[layer].map((map) => map.png ?? map);
      return position < 0 ? strongest(await Promise.all(maps.map(readPng))) : readPng(maps[position]);
    }
    return readPng(record.labels[layer]);
  }

  function strongest(maps) {
    const { width, height } = maps[0];
    const values = new Uint8Array(maps[0].values);
    const which = new Uint8Array(values.length);
    for (let position = 1; position < maps.length; position++) {
      const map = maps[position].values;
      for (let i = 0; i < values.length; i++) {
        if (map[i] > values[i]) {
          values[i] = map[i];
          which[i] = position;
        }
      }
    }
    return { width, height, values, which };
  }

  // Gray values of an 8-bit PNG. Read here and not by a canvas, which would take four bytes a pixel three times over.
  async function readPng(png) {
    const bytes = Uint8Array.from(atob(png), (character) => character.charCodeAt(0));
    const view = new DataView(bytes.buffer);
    const width = view.getUint32(16), height = view.getUint32(20);
    const parts = [];
    for (let at = 8; at < bytes.length; at += 12 + view.getUint32(at)) {
      if (view.getUint32(at + 4) === IDAT) parts.push(bytes.subarray(at + 8, at + 8 + view.getUint32(at)));
    }
    const stream = new Blob(parts).stream().pipeThrough(new DecompressionStream("deflate"));
    const lines = new Uint8Array(await new Response(stream).arrayBuffer());
    return { width, height, values: unfiltered(lines, width, height) };
  }

  const IDAT = 0x49444154;

  // PNG's filters: each line has its own, and a byte is the rest of what its neighbors predict.
  function unfiltered(lines, width, height) {
    const values = new Uint8Array(width * height);
    for (let y = 0, from = 0, to = 0; y < height; y++) {
      const filter = lines[from++];
      for (let x = 0; x < width; x++, to++) {
        const left = x ? values[to - 1] : 0;
        const above = y ? values[to - width] : 0;
        const corner = x && y ? values[to - width - 1] : 0;
        values[to] = lines[from++] + predicted(filter, left, above, corner);
      }
    }
    return values;
  }

  function predicted(filter, left, above, corner) {
    if (filter === 0) return 0;
    if (filter === 1) return left;
    if (filter === 2) return above;
    if (filter === 3) return (left + above) >> 1;
    const [a, b, c] = [Math.abs(above - corner), Math.abs(left - corner), Math.abs(left + above - 2 * corner)];
    return a <= b && a <= c ? left : b <= c ? above : corner;
  }

  return { facts, LAYERS, images, problems, list, image, loadLists, request, recall, tilesOf, nameOf, decode, ready };
})();
