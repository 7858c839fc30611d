// What is shown, as the address says it: every view can be shared, and the back button works.

const DEFAULTS = {
  view: "search",
  c: "",
  q: "",
  mode: "hybrid",
  filter: "",
  k: 10,
  doc: "",
  start: 0,
  end: 0,
  offset: 0,
};
const CHOICES = { view: ["search", "collections", "documents", "add"], mode: ["hybrid", "dense", "lexical"] };
const LARGEST = { k: 1000 };
const listeners = [];

export function read(query = location.search) {
  const given = new URLSearchParams(query);
  const state = { ...DEFAULTS };
  for (const [name, usual] of Object.entries(DEFAULTS)) {
    const text = given.get(name);
    if (text === null) continue;
    if (typeof usual === "number") {
      const number = Number(text);
      if (Number.isSafeInteger(number) && number >= (name === "k" ? 1 : 0))
        state[name] = Math.min(number, LARGEST[name] ?? number);
    } else if (!CHOICES[name] || CHOICES[name].includes(text)) state[name] = text;
  }
  return state;
}

/** The address of the present view with `change`. */
export function href(change, from = read()) {
  const state = { ...from, ...change };
  const query = new URLSearchParams();
  for (const [name, usual] of Object.entries(DEFAULTS)) if (state[name] !== usual) query.set(name, state[name]);
  return `?${query}`;
}

export function go(change, { replace = false, from = read() } = {}) {
  visit(href(change, from), replace);
}

export function visit(address, replace = false) {
  const place = address === "?" ? location.pathname : address;
  history[replace ? "replaceState" : "pushState"](null, "", place);
  for (const listener of listeners) listener(read());
}

export function onChange(listener) {
  listeners.push(listener);
  addEventListener("popstate", () => listener(read()));
}
