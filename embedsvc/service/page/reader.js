// A document, opened at a passage: a part of it at first, more of it as one reads on.

import * as address from "./address.js";
import { ask, documentPath } from "./api.js";
import { $, announce, copyButton, el, number, shownUri } from "./dom.js";
import { citationOf, metadataView, placeOf, spansOf, titleOf } from "./search.js";
import { marked, slice } from "./text.js";

const AROUND = 6000;
const MORE = 12000;
// Characters read before and after the passage at first, and at a time from then on.
const CODE =
  /\.(py|js|mjs|ts|tsx|jsx|java|c|h|cc|cpp|hpp|rs|go|rb|php|cs|sh|sql|css|json|jsonl|csv|tsv|yaml|yml|toml|ini|cfg|log|ipynb|tex|xml)$/i;

let shown = "";
let settled = 0; // where the passage was scrolled to
let reading;

export function close() {
  reading?.abort();
  shown = "";
  const reader = $("reader");
  reader.hidden = true;
  reader.replaceChildren();
}

/** Opens what `state` names. `hit`: the hit that it is, where it is known. Rejects with a Problem. */
export async function open(state, hit) {
  const wanted = JSON.stringify([state.c, state.doc, state.start, state.end]);
  if (wanted === shown) {
    if (hit) mark(hit);
    return;
  }
  reading?.abort();
  reading = new AbortController();
  const { signal } = reading;
  const reader = $("reader");
  shown = wanted;
  reader.hidden = false;
  reader.setAttribute("aria-busy", "true");
  try {
    const part = await read(state, Math.max(0, state.start - AROUND), state.end + AROUND, signal);
    reader.replaceChildren(...view(part, state, hit));
  } catch (error) {
    if (error.name === "AbortError") return;
    shown = "";
    throw error;
  } finally {
    if (!signal.aborted) reader.removeAttribute("aria-busy");
  }
  announce(`${reader.querySelector("h2").textContent}, opened at the passage`);
  bringIntoView(reader);
}

/** By hand: scrollIntoView would move the hits beside the reader too. */
function bringIntoView(reader) {
  const passage = reader.querySelector(".passage");
  if (!passage) {
    reader.scrollTop = 0;
    return;
  }
  const target = passage.querySelector("mark") ?? passage;
  const room = reader.clientHeight - reader.querySelector("header").offsetHeight;
  reader.scrollTop += target.getBoundingClientRect().top - reader.getBoundingClientRect().bottom + 0.72 * room;
  settled = reader.scrollTop;
}

const read = (state, start, end, signal) =>
  ask(`${documentPath(state.c, state.doc)}?start=${start}&end=${end}`, { signal });

function view(part, state, hit) {
  const own = part.passages.find((passage) => passage.start <= state.start && state.start < passage.end);
  const place = placeOf(hit ?? own ?? {});
  const cited = {
    ...part,
    ...(own ?? {}),
    ...(hit ?? {}),
    title: part.title,
    uri: part.uri,
    start: state.start,
    end: state.end,
  };
  const metadata = Object.entries(part.metadata);
  const text = el("div", { class: `text${CODE.test(part.uri.split("#")[0]) ? " code" : ""}`, dir: "auto" });
  const early = el("button", { type: "button", class: "more" }, "Earlier text");
  const late = el("button", { type: "button", class: "more" }, "More text");
  let [from, to, page] = [part.start, part.end, pageOf(part)];
  text.append(pieces(part, state, hit));
  early.hidden = from === 0;
  late.hidden = to >= part.characters;
  early.addEventListener("click", async () => {
    const more = await another(early, Math.max(0, from - MORE), from);
    if (!more) return;
    const reader = $("reader");
    const height = reader.scrollHeight;
    text.prepend(pieces(more, state));
    reader.scrollTop += reader.scrollHeight - height;
    from = more.start;
    early.hidden = from === 0;
  });
  late.addEventListener("click", async () => {
    const more = await another(late, to, to + MORE);
    if (!more) return;
    text.append(pieces(more, state, undefined, page));
    page = pageOf(more) ?? page;
    to = more.end;
    late.hidden = to >= more.characters || more.end === more.start;
  });
  new IntersectionObserver((seen) => seen.some((each) => each.isIntersecting) && !late.disabled && late.click(), {
    rootMargin: "600px",
  }).observe(late);

  async function another(button, start, end) {
    button.disabled = true;
    try {
      return await read(state, start, end);
    } catch (problem) {
      button.textContent = `${problem.message} Try again`;
      return null;
    } finally {
      button.disabled = false;
    }
  }

  return [
    el(
      "header",
      {},
      el(
        "div",
        { class: "top" },
        el("h2", { dir: "auto" }, titleOf(part)),
        el(
          "button",
          {
            type: "button",
            class: "shut",
            "aria-label": "Close the document",
            title: "Close (Esc)",
            on: { click: () => address.go({ doc: "", start: 0, end: 0 }) },
          },
          "×",
        ),
      ),
      place ? el("p", { class: "place", dir: "auto" }, place) : null,
      el(
        "p",
        { class: "source" },
        shownUri(part.uri),
        el(
          "span",
          { class: "span" },
          state.end
            ? `${number(state.start)}–${number(state.end)} of ${number(part.characters)}`
            : `${number(part.characters)} characters`,
        ),
        el("span", { class: "acts" }, ...steps(part, state), state.end ? copyButton(citationOf(cited), "Cite") : null),
      ),
      metadata.length ? metadataView(metadata) : null,
      where(part, state),
    ),
    el("div", { class: "paper" }, early, text, late),
  ];
}

const pageOf = (part) => part.passages.at(-1)?.page ?? null;

/** To the passages before and after this one. */
function steps(part, state) {
  if (!state.end) return [];
  const before = part.passages.filter((passage) => passage.start < state.start).pop();
  const after = part.passages.find((passage) => passage.start > state.start && passage.end > state.end);
  const link = (passage, label, sign) =>
    passage
      ? el(
          "a",
          {
            class: "step",
            href: address.href({ start: passage.start, end: passage.end }, state),
            "aria-label": label,
            title: label,
          },
          sign,
        )
      : el("span", { class: "step off", "aria-hidden": "true" }, sign);
  return [link(before, "Passage before", "‹"), link(after, "Passage after", "›")];
}

/** Where in the document the passage stands, as a strip. */
function where(part, state) {
  const strip = el("div", { class: "where", "aria-hidden": "true" }, el("i"));
  if (state.end && part.characters) {
    strip.firstChild.style.left = `${(100 * state.start) / part.characters}%`;
    strip.firstChild.style.width = `${Math.max(0.6, (100 * (state.end - state.start)) / part.characters)}%`;
  }
  return strip;
}

/** The text of a part, with its passage marked and the pages that begin in it told beside it. */
function pieces(part, state, hit, page = null) {
  const spans = [];
  if (state.end) spans.push({ from: state.start, to: state.end, make: () => el("span", { class: "passage" }) });
  if (hit) spans.push(...spansOf(hit));
  const nodes = document.createDocumentFragment();
  let at = part.start;
  for (const { start, label } of turns()) {
    nodes.append(marked(sliced(at, start), at, spans), el("span", { class: "turn", "data-label": label }));
    at = start;
  }
  nodes.append(marked(sliced(at, part.end), at, spans));
  return nodes;

  function turns() {
    const found = [];
    for (const passage of part.passages) {
      const within = passage.start >= part.start && !(state.start < passage.start && passage.start < state.end);
      if (passage.page !== null && passage.page !== page && within)
        found.push({ start: passage.start, label: `page ${passage.page}` });
      if (within) page = passage.page;
    }
    return found;
  }

  function sliced(from, to) {
    return slice(part.text, from - part.start, to - part.start);
  }
}

/** Marks the words of a hit that became known after its document was opened. */
function mark(hit) {
  const reader = $("reader");
  const passage = reader.querySelector(".passage");
  if (!passage || passage.querySelector("mark") || !hit.highlight) return;
  const isStill = reader.scrollTop === settled;
  passage.replaceChildren(marked(passage.textContent, hit.start, spansOf(hit)));
  if (isStill) bringIntoView(reader); // unless somebody has begun to read
}
