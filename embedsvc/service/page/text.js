// Offsets: the service counts characters (code points), a JavaScript string UTF-16 units. An emoji is one and two.

const ASTRAL = /[\ud800-\udbff][\udc00-\udfff]/;

/** How many code points `text` has. */
export function length(text) {
  if (!ASTRAL.test(text)) return text.length;
  let count = 0;
  for (const _ of text) count += 1;
  return count;
}

/** A function from code points to UTF-16 units of `text`. */
function unitsOf(text) {
  if (!ASTRAL.test(text)) return (at) => Math.max(0, Math.min(at, text.length));
  const starts = [];
  let unit = 0;
  for (const character of text) {
    starts.push(unit);
    unit += character.length;
  }
  starts.push(unit);
  return (at) => starts[Math.max(0, Math.min(at, starts.length - 1))];
}

/** The code points `[from, to)` of `text`. */
export function slice(text, from, to) {
  const units = unitsOf(text);
  return text.slice(units(from), units(to));
}

/**
 * `text`, which begins at character `start` of its document, as nodes in which `spans` ({from, to, make}, in characters
 * of the document, where `make` gives an element) are marked. Spans may lie in one another; those listed first are outer.
 */
export function marked(text, start, spans) {
  const units = unitsOf(text);
  const ranges = spans
    .map(({ from, to, make }) => ({ from: units(from - start), to: units(to - start), make }))
    .filter(({ from, to }) => from < to);
  return inside(0, text.length, ranges);

  function inside(from, to, within) {
    const nodes = document.createDocumentFragment();
    const [outer, ...rest] = within;
    if (!outer) {
      nodes.append(text.slice(from, to));
      return nodes;
    }
    const [low, high] = [Math.max(from, outer.from), Math.min(to, outer.to)];
    if (low >= high) return inside(from, to, rest);
    if (from < low) nodes.append(inside(from, low, rest));
    const element = outer.make();
    element.append(inside(low, high, rest));
    nodes.append(element);
    if (high < to) nodes.append(inside(high, to, rest));
    return nodes;
  }
}
