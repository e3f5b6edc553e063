"use strict";

// Colors of classes, rules and maps, and painting a layer with them.
getamAudit.colors = (() => {
  const { facts } = getamAudit;

  // The palette of Okabe and Ito, which color-blind people can tell apart, without black, the color of the background.
  const SAFE = ["#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7"];
  // The patterns that distinguish classes of the same color: whether pixel (x, y) of a cell of PERIOD pixels is black.
  // The first class of a color has the first pattern, and so on. Diagonal stripes are left to rules and unknown pixels.
  const PERIOD = 6;
  const PATTERNS = [
    () => false,
    (x) => x < 2, // vertical lines
    (x, y) => y < 2, // horizontal lines
    (x, y) => x < 3 && y < 3, // dots
    (x, y) => x < 1 || y < 1, // a grid
    (x, y) => x < 3 !== y < 3, // a checkerboard
  ];
  const UNKNOWN = 255;
  const STRIPES = ["#f2f2f2", "#8c8c8c"]; // of unknown pixels
  const GROUND = "#23272b"; // background of label layers

  // A canvas pixel as a number: RGBA, little-endian.
  function pixel(color, alpha = 255) {
    const value = parseInt(color.slice(1), 16);
    return ((alpha << 24) | ((value & 255) << 16) | (value & 0xff00) | (value >> 16)) >>> 0;
  }

  // The look of a class in an image: its color, and its pattern.
  function classLook(classes, value, palette) {
    if (palette === "voc") return { color: facts.palette[value], pattern: 0 };
    const rank = Math.max(0, classes.indexOf(value));
    return { color: SAFE[rank % SAFE.length], pattern: Math.floor(rank / SAFE.length) % PATTERNS.length };
  }

  function hatch(color, other) {
    return `repeating-linear-gradient(135deg, ${color} 0 3px, ${other} 3px 6px)`;
  }

  // The CSS background of a class: its color, or a repeated picture of one cell of its pattern.
  function classBackground(classes, value, palette) {
    const { color, pattern } = classLook(classes, value, palette);
    if (pattern === 0) return color;
    const canvas = document.createElement("canvas");
    canvas.width = canvas.height = PERIOD;
    const context = canvas.getContext("2d");
    for (let y = 0; y < PERIOD; y++) {
      for (let x = 0; x < PERIOD; x++) {
        context.fillStyle = PATTERNS[pattern](x, y) ? "#000" : color;
        context.fillRect(x, y, 1, 1);
      }
    }
    return `url(${canvas.toDataURL()}) 0 0 / ${PERIOD}px`;
  }

  const unknownBackground = hatch(...STRIPES);
  const ruleBackground = (rule) => facts.rules[rule].hatched ? hatch(facts.rules[rule].color, "#fff") : facts.rules[rule].color;
  const heatBackground = `linear-gradient(to right, ${facts.heat.filter((_, i) => i % 10 === 0).join(", ")})`;

  const grayBackground = "linear-gradient(to right, #000, #fff)";

  const heat = Uint32Array.from(facts.heat, (color) => pixel(color));
  const gray = Uint32Array.from({ length: 101 }, (_, percent) => {
    const level = Math.round(2.55 * percent);
    return ((255 << 24) | (level << 16) | (level << 8) | level) >>> 0;
  });

  // For each value, two colors and the number of the pattern that chooses between them; LEANING is diagonal stripes.
  const LEANING = PATTERNS.length;
  function look(layer, classes, palette, over) {
    const table = { even: new Uint32Array(256), odd: new Uint32Array(256), pattern: new Uint8Array(256) };
    const set = (value, even, odd = even, pattern = 0) => {
      table.even[value] = even;
      table.odd[value] = odd;
      table.pattern[value] = pattern;
    };
    if (layer === "raw" || layer === "refined") heat.forEach((color, value) => set(value, color));
    else if (layer === "saliency") gray.forEach((color, value) => set(value, color));
    else if (layer === "rules") {
      facts.rules.forEach(({ color, hatched }, rule) => set(rule, pixel(color), pixel("#ffffff"), hatched ? LEANING : 0));
      if (over) set(0, pixel("#000000", 110));
    } else {
      for (let value = 1; value < UNKNOWN; value++) {
        if (palette === "voc") set(value, pixel(facts.palette[value]));
      }
      for (const value of classes) {
        const { color, pattern } = classLook(classes, value, palette);
        set(value, pixel(color), pixel("#000000"), pattern);
      }
      set(0, over ? 0 : pixel(GROUND));
      set(UNKNOWN, pixel(STRIPES[0]), pixel(STRIPES[1]), LEANING);
    }
    return table;
  }

  let hasPainted = false;

  // All tiles of a size share this buffer: in a fast scroll the browser would not free separate ones soon enough.
  let last = null;
  function scratch(context, width, height) {
    if (last?.width !== width || last.height !== height) last = context.createImageData(width, height);
    return last;
  }

  // For each pattern, the pixels of a cell that have the second color.
  const masks = [...PATTERNS, (x, y) => x + y >= PERIOD / 2 && x + y < PERIOD || x + y >= 1.5 * PERIOD].map((isOdd) =>
    Uint8Array.from({ length: PERIOD ** 2 }, (_, at) => isOdd(at % PERIOD, Math.floor(at / PERIOD)) ? 1 : 0));

  // Paints a decoded layer at the canvas's size by nearest neighbor; cells of patterns are PERIOD CSS pixels wide.
  function paint(canvas, decoded, layer, classes, palette, over, ratio) {
    const { even, odd, pattern } = look(layer, classes, palette, over);
    const { width, height } = canvas;
    const context = canvas.getContext("2d");
    const picture = scratch(context, width, height);
    const pixels = new Uint32Array(picture.data.buffer);
    const columns = Uint32Array.from({ length: width }, (_, x) => Math.floor((x + 0.5) * decoded.width / width));
    const across = Uint8Array.from({ length: width }, (_, x) => Math.floor(x / ratio) % PERIOD);
    let at = 0;
    for (let y = 0; y < height; y++) {
      const row = Math.floor((y + 0.5) * decoded.height / height) * decoded.width;
      const down = Math.floor(y / ratio) % PERIOD * PERIOD;
      for (let x = 0; x < width; x++) {
        const value = decoded.values[row + columns[x]];
        pixels[at++] = masks[pattern[value]][down + across[x]] ? odd[value] : even[value];
      }
    }
    context.putImageData(picture, 0, 0);
    canvas.dataset.painted = layer;
    if (!hasPainted) performance.mark("first picture");
    hasPainted = true;
  }

  return { UNKNOWN, classBackground, unknownBackground, ruleBackground, heatBackground, grayBackground, GROUND, paint };
})();
