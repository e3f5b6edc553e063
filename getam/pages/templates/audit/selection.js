"use strict";

// Which images are shown, and in which order.
getamAudit.selection = (() => {
  const { facts } = getamAudit;
  const MEASURES = { ...facts.scores, ...facts.shares };
  const WORST_IS_HIGH = new Set(["unknown", "mined", "conflict"]);
  const NONE = {
    text: "", class: "", split: "", verdict: "", score: Object.keys(MEASURES)[0], min: "", max: "", sort: "id", order: "worst",
  };

  const FITS = {
    class: ["", ...facts.shown.map(String)],
    split: ["", ...facts.splits.map((_, position) => String(position))],
    verdict: ["", "any", "none", ...getamAudit.verdicts.WORDS],
    order: ["worst", "best"],
  };
  const KEY = `getam-audit:filter:${facts.run}:${facts.key}`;

  // The filter before a reload, which each tab keeps for itself if the browser allows it.
  function kept() {
    try {
      return { ...NONE, ...JSON.parse(sessionStorage.getItem(KEY)) };
    } catch (error) {
      return NONE;
    }
  }

  function keep(filter) {
    try {
      sessionStorage.setItem(KEY, JSON.stringify(filter));
    } catch (error) {
      // Without storage the page starts without a filter after a reload.
    }
  }

  // Resets values of a filter that this page does not offer, such as an IoU in a run without ground truth.
  function fitting(filter, measures) {
    const allowed = { ...FITS, score: measures, sort: ["id", ...measures] };
    return Object.fromEntries(Object.entries(NONE).map(([key, usual]) => {
      const isBound = key === "min" || key === "max";
      const fits = key in allowed ? allowed[key].includes(filter[key])
        : typeof filter[key] === "string" && !(isBound && Number.isNaN(Number(filter[key])));
      return [key, fits ? filter[key] : key === "score" ? measures[0] : usual];
    }));
  }

  const measureName = (key) => (key in facts.scores ? "IoU " : "") + MEASURES[key] + (key in facts.shares ? " pixels" : "");

  // The measures for which some image has a value.
  const measures = (images) => Object.keys(MEASURES).filter((key) => images.some((entry) => entry[key] !== null));

  function select(images, filter) {
    const text = filter.text.trim().toLowerCase();
    const value = filter.class === "" ? null : Number(filter.class);
    const split = filter.split === "" ? null : facts.splits[filter.split];
    const min = filter.min === "" ? -Infinity : Number(filter.min) / 100;
    const max = filter.max === "" ? Infinity : Number(filter.max) / 100;
    const ranged = filter.min !== "" || filter.max !== "";
    const found = images.filter((entry) =>
      (split === null || entry.split === split) &&
      (value === null || entry.labels.includes(value)) &&
      (text === "" || entry.text.includes(text)) &&
      (!ranged || (entry[filter.score] !== null && entry[filter.score] >= min && entry[filter.score] <= max)) &&
      (filter.verdict === "" || hasVerdict(entry, filter.verdict)));
    if (filter.sort === "id") return filter.order === "worst" ? found : found.reverse();
    const sign = WORST_IS_HIGH.has(filter.sort) === (filter.order === "worst") ? -1 : 1;
    // Array.sort is stable, and the images come sorted by split and id; those without a value go last.
    return found.sort((a, b) => {
      const [x, y] = [a[filter.sort], b[filter.sort]];
      return x === null || y === null ? (x === null) - (y === null) : sign * (x - y);
    });
  }

  function hasVerdict(entry, wanted) {
    const { verdict } = getamAudit.verdicts.get(entry.id);
    return wanted === "none" ? verdict === "" : wanted === "any" ? verdict !== "" : verdict === wanted;
  }

  return { kept, keep, fitting, measureName, measures, select };
})();
