// What is wrong with a page as it is shown: an object of lists of sentences, empty if nothing is.
(() => {
  const LEAST = 4.5, CLOSE = 0.5;
  const shown = (e) => e.checkVisibility({ visibilityProperty: true, opacityProperty: true });
  const rgba = (text) => {
    const [r, g, b, a = 1] = (text.match(/[\d.]+/g) || [0, 0, 0, 0]).map(Number);
    return { r, g, b, a };
  };
  const over = (top, below) =>
    ["r", "g", "b"].reduce((made, c) => ({ ...made, [c]: top[c] * top.a + below[c] * (1 - top.a) }), { a: 1 });
  const backgroundOf = (e) => {
    const layers = [];
    for (let each = e; each; each = each.parentElement)
      layers.push(rgba(getComputedStyle(each).backgroundColor));
    return layers.reverse().reduce((below, top) => over(top, below), { r: 255, g: 255, b: 255, a: 1 });
  };
  const luminance = (colour) => {
    const [r, g, b] = ["r", "g", "b"].map((c) => {
      const v = colour[c] / 255;
      return v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const contrast = (e) => {
    const style = getComputedStyle(e), below = backgroundOf(e);
    const text = over(rgba(e.closest("svg") ? style.fill : style.color), below);
    const [high, low] = [luminance(text), luminance(below)].sort((a, b) => b - a);
    return (high + 0.05) / (low + 0.05);
  };
  const texts = [];
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const parent = walk.currentNode.parentElement;
    if (walk.currentNode.data.trim() && parent.tagName !== "STYLE" && shown(parent))
      texts.push([walk.currentNode.data.trim(), parent]);
  }
  const faint = texts.filter(([, e]) => contrast(e) < LEAST).map(([t, e]) => `${contrast(e).toFixed(2)}: ${t}`);
  const width = document.documentElement.clientWidth;
  const wide = document.documentElement.scrollWidth > width
    ? [...document.body.querySelectorAll("*")].filter((e) => e.getBoundingClientRect().right > width + CLOSE)
      .map((e) => `${e.tagName} ${e.className.baseVal ?? e.className} reaches ${e.getBoundingClientRect().right} of ${width}`)
    : [];
  const overlapping = [];
  for (const picture of document.querySelectorAll("figure svg")) {
    if (!shown(picture)) continue;
    const frame = picture.getBoundingClientRect();
    const labels = [...picture.querySelectorAll(".event-label")]
      .map((e) => [e.textContent.trim(), e.getBoundingClientRect()]);
    labels.forEach(([text, a], i) => {
      if (a.right > frame.right + CLOSE || a.left < frame.left - CLOSE || a.top < frame.top - CLOSE)
        overlapping.push(`${text} leaves the picture`);
      for (const [other, b] of labels.slice(i + 1))
        if (a.left < b.right - CLOSE && b.left < a.right - CLOSE && a.top < b.bottom - CLOSE && b.top < a.bottom - CLOSE)
          overlapping.push(`${text} and ${other}`);
    });
  }
  const small = texts.filter(([, e]) => !e.closest("svg") && parseFloat(getComputedStyle(e).fontSize) < 11)
    .map(([t, e]) => `${getComputedStyle(e).fontSize}: ${t}`);
  return { faint, wide, overlapping, small, texts: texts.length };
})()
