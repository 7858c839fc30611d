// Elements, made without HTML: whatever a document, a name or an error says, it is text.

/** `props`: attributes; `class`, `on` ({event: listener}) and properties that are no strings are set as such. */
export function el(tag, props = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (value === undefined || value === null || value === false) continue;
    if (name === "on") for (const [event, listener] of Object.entries(value)) element.addEventListener(event, listener);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

export const $ = (id) => document.getElementById(id);

const counts = new Intl.NumberFormat("en");
export const number = (value) => counts.format(value);
export const plural = (value, one, many = `${one}s`) => `${number(value)} ${value === 1 ? one : many}`;
export const percent = (share, digits = 0) => `${(100 * share).toFixed(digits)} %`;

export function bytes(value) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let at = 0;
  while (value >= 1000 && at < units.length - 1) [value, at] = [value / 1000, at + 1];
  return `${at && value < 10 ? value.toFixed(1) : Math.round(value)} ${units[at]}`;
}

export function announce(text) {
  $("status").textContent = text;
}

export function copyButton(text, label = "Copy") {
  const button = el("button", { type: "button", class: "copy", on: { click: copy } }, label);
  async function copy(event) {
    event.stopPropagation();
    button.textContent = (await copied(text)) ? "Copied" : "Press Ctrl+C";
    setTimeout(() => (button.textContent = label), 1600);
  }
  return button;
}

async function copied(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    // Without https, other than on this machine, browsers give no clipboard: the old way.
    const area = el("textarea", { class: "unseen", "aria-hidden": "true" });
    area.value = text;
    (document.querySelector("dialog[open]") ?? document.body).append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    return done;
  }
}

/** The last part of a uri, for a document without a title. */
export function fileName(uri) {
  const name = uri.split(/[?#]/, 1)[0].split("/").filter(Boolean).pop() ?? uri;
  try {
    return decodeURIComponent(name);
  } catch {
    return name;
  }
}

/** A uri as text; a link only where it is an address of the web, for no other scheme is safe to follow. */
export function shownUri(uri) {
  if (/^https?:\/\//i.test(uri))
    return el(
      "a",
      { href: uri, target: "_blank", rel: "noopener noreferrer nofollow", class: "uri", dir: "auto" },
      uri,
    );
  return el("span", { class: "uri", dir: "auto", title: uri }, uri.replace(/^file:\/\//, ""));
}
