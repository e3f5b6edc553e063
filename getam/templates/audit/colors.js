"use strict";

// Colors of classes, rules and maps, and how a layer is painted with them.
getamAudit.colors = (() => {
  const { facts } = getamAudit;

  // Okabe and Ito, told apart by the color-blind too; black is left to the background.
  const SAFE = ["#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7"];
  const RULES = [
    { color: "#000000", hatched: false },
    { color: "#0072b2", hatched: false },
    { color: "#56b4e9", hatched: true },
    { color: "#e69f00", hatched: false },
    { color: "#d55e00", hatched: true },
    { color: "#cc79a7", hatched: false },
  ];
  const UNKNOWN = 255;
  const STRIPES = ["#f2f2f2", "#8c8c8c"]; // of unknown pixels
  const GROUND = "#23272b"; // background of label layers

  // A pixel of a canvas as a number: little-endian RGBA.
  function pixel(color, alpha = 255) {
    const value = parseInt(color.slice(1), 16);
    return ((alpha << 24) | ((value & 255) << 16) | (value & 0xff00) | (value >> 16)) >>> 0;
  }

  // The look of a class in an image: its color, and whether it is the second in it that has that color.
  function classLook(classes, value, palette) {
    if (palette === "voc") return { color: facts.palette[value], dotted: false };
    const rank = Math.max(0, classes.indexOf(value));
    return { color: SAFE[rank % SAFE.length], dotted: rank >= SAFE.length };
  }

  function hatch(color, other) {
    return `repeating-linear-gradient(135deg, ${color} 0 3px, ${other} 3px 6px)`;
  }

  function classBackground(classes, value, palette) {
    const { color, dotted } = classLook(classes, value, palette);
    return dotted ? `repeating-linear-gradient(90deg, ${color} 0 3px, #000 3px 4px)` : color;
  }

  const unknownBackground = hatch(...STRIPES);
  const ruleBackground = (rule) => RULES[rule].hatched ? hatch(RULES[rule].color, "#fff") : RULES[rule].color;
  const heatBackground = `linear-gradient(to right, ${facts.heat.filter((_, i) => i % 10 === 0).join(", ")})`;

  const heat = Uint32Array.from(facts.heat, (color) => pixel(color));
  const gray = Uint32Array.from({ length: 101 }, (_, percent) => {
    const level = Math.round(2.55 * percent);
    return ((255 << 24) | (level << 16) | (level << 8) | level) >>> 0;
  });

  // Two colors a value, which alternate in stripes, and the stripes' direction.
  function look(layer, classes, palette, over) {
    const table = { even: new Uint32Array(256), odd: new Uint32Array(256), upright: new Uint8Array(256) };
    const set = (value, even, odd = even, upright = 0) => {
      table.even[value] = even;
      table.odd[value] = odd;
      table.upright[value] = upright;
    };
    if (layer === "raw" || layer === "refined") heat.forEach((color, value) => set(value, color));
    else if (layer === "saliency") gray.forEach((color, value) => set(value, color));
    else if (layer === "rules") {
      RULES.forEach(({ color, hatched }, rule) => set(rule, pixel(color), hatched ? pixel("#ffffff") : pixel(color)));
      if (over) set(0, pixel("#000000", 110));
    } else {
      for (let value = 1; value < UNKNOWN; value++) {
        if (palette === "voc") set(value, pixel(facts.palette[value]));
      }
      for (const value of classes) {
        const { color, dotted } = classLook(classes, value, palette);
        set(value, pixel(color), dotted ? pixel("#000000") : pixel(color), 1);
      }
      set(0, over ? 0 : pixel(GROUND));
      set(UNKNOWN, pixel(STRIPES[0]), pixel(STRIPES[1]));
    }
    return table;
  }

  // Used again by all tiles of a size: they would leave more behind than the browser clears away in a fast scroll.
  let last = null;
  function scratch(context, width, height) {
    if (last?.width !== width || last.height !== height) last = context.createImageData(width, height);
    return last;
  }

  // Paints a decoded layer at the canvas's size, nearest pixels; stripes have that size on the screen.
  function paint(canvas, decoded, layer, classes, palette, over, ratio) {
    const { even, odd, upright } = look(layer, classes, palette, over);
    const { width, height } = canvas;
    const context = canvas.getContext("2d");
    const picture = scratch(context, width, height);
    const pixels = new Uint32Array(picture.data.buffer);
    const columns = Uint32Array.from({ length: width }, (_, x) => Math.floor((x + 0.5) * decoded.width / width));
    const stripe = 3 * ratio;
    let at = 0;
    for (let y = 0; y < height; y++) {
      const row = Math.floor((y + 0.5) * decoded.height / height) * decoded.width;
      for (let x = 0; x < width; x++) {
        const value = decoded.values[row + columns[x]];
        const offset = upright[value] ? x : x + y;
        pixels[at++] = Math.floor(offset / stripe) % 2 ? odd[value] : even[value];
      }
    }
    context.putImageData(picture, 0, 0);
    canvas.dataset.painted = layer;
    if (!performance.getEntriesByName("first picture").length) performance.mark("first picture");
  }

  return { UNKNOWN, classBackground, unknownBackground, ruleBackground, heatBackground, paint };
})();
