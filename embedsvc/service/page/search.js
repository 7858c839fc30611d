// A question, and its hits.

import * as address from "./address.js";
import { ask, collectionPath } from "./api.js";
import { announce, copyButton, el, fileName, number, percent, plural, shownUri } from "./dom.js";
import { length, marked, slice } from "./text.js";

const BEFORE = 80;
const LEAST = 400;
const MOST = 520;
const LATER = 50;
// Characters of an excerpt: before the best sentence, and altogether, where the passage has as many; by how much later
// it begins as long as that sentence is not within the lines that are shown.

/** What the service is asked for. */
export function requestOf(state, highlight) {
  const request = { query: state.q, k: state.k, mode: state.mode, highlight };
  if (state.filter) request.filter = state.filter;
  return request;
}

// Best sentences take the service longer than all else, so hits are shown before they are known; but for those of a
// search by words alone, which takes no time: nothing is encoded.
const marksAtOnce = (state) => state.mode === "lexical";

export const search = (state, signal, more = {}) =>
  ask(`${collectionPath(state.c)}/search`, { json: { ...requestOf(state, marksAtOnce(state)), ...more }, signal });

/** Where best sentences are not known yet, asks again, with them, and marks them in the hits of `answer` that `view`
 * shows. */
export async function mark(answer, view, state, signal) {
  if (marksAtOnce(state)) return;
  const { version, hits } = await search(state, signal, { highlight: true });
  if (version !== answer.version || hits.length !== answer.hits.length) return; // somebody wrote in between
  answer.hits.forEach((hit, at) => {
    hit.highlight = hits[at].highlight;
    const box = view.querySelector(`[data-at="${at}"]`);
    showExcerpt(box.querySelector(".excerpt"), hit);
    box.querySelector(".place").replaceChildren(placeOf(hit.highlight));
  });
}

/** The marks of a hit: its best sentence, and in it and around it the words of the query. */
export function spansOf(hit) {
  const spans = [];
  if (hit.highlight) {
    const [from, to] = hit.highlight.sentence;
    spans.push({ from, to, make: () => el("mark", { class: "sentence" }) });
    for (const [start, end] of hit.highlight.terms)
      spans.push({ from: start, to: end, make: () => el("b", { class: "term" }) });
  }
  return spans;
}

export function answerView(answer, state) {
  const took = answer.took_ms < 10 ? answer.took_ms.toFixed(1) : Math.round(answer.took_ms);
  const order = answer.hits.length > 1 ? ", by score" : "";
  const facts = `${plural(answer.hits.length, "hit")} in ${took} ms${order}`;
  announce(answer.hits.length ? facts : "No hits");
  const view = el("div", { class: "answer" });
  view.append(el("p", { class: "facts" }, facts, verdictOf(answer)));
  if (answer.answerable === false && answer.hits.length)
    view.append(
      el(
        "p",
        { class: "notice unsure" },
        el("strong", {}, "The answer does not seem to be here. "),
        "These passages are the nearest.",
      ),
    );
  for (const warning of answer.warnings) view.append(el("p", { class: "notice" }, warning));
  if (!answer.hits.length) view.append(nothing(state));
  else
    view.append(
      el(
        "ol",
        { class: "hits" },
        answer.hits.map((hit, at) => hitView(hit, at, state)),
      ),
    );
  // In narrower lines, as beside a document, less is shown.
  const widths = new ResizeObserver((boxes) =>
    requestAnimationFrame(() => {
      for (const { target } of boxes)
        if (target.querySelector("mark")) showExcerpt(target, answer.hits[target.closest(".hit").dataset.at]);
    }),
  );
  for (const box of view.querySelectorAll(".excerpt")) widths.observe(box);
  return view;
}

function verdictOf(answer) {
  if (answer.answerable !== true) return null;
  return el("span", { class: "verdict", title: "The collection seems to hold the answer" }, "seems answered");
}

function nothing(state) {
  const ways = [];
  if (state.filter)
    ways.push(
      el(
        "li",
        {},
        "the filter leaves too little: ",
        el("a", { href: address.href({ filter: "", doc: "" }, state) }, "search without it"),
      ),
    );
  if (state.mode === "lexical")
    ways.push(
      el(
        "li",
        {},
        "no passage has these words: ",
        el("a", { href: address.href({ mode: "hybrid", doc: "" }, state) }, "search by meaning too"),
      ),
    );
  if (/"/.test(state.q)) ways.push(el("li", {}, "words in quotes must stand next to one another"));
  ways.push(
    el(
      "li",
      {},
      "it may be in ",
      el("a", { href: address.href({ view: "collections", doc: "" }, state) }, "another collection"),
    ),
  );
  return el("div", { class: "nothing" }, el("h2", {}, "Nothing found"), el("ul", {}, ways));
}

export const hitAddress = (hit, state) => address.href({ doc: hit.document_id, start: hit.start, end: hit.end }, state);

export const titleOf = (document) => document.title || fileName(document.uri);

/** Page and headings as one line, or "". */
export function placeOf(passage) {
  const parts = [];
  if (passage.page !== null && passage.page !== undefined) parts.push(`page ${passage.page}`);
  if (passage.heading) parts.push(...passage.heading.split(" > "));
  return parts.join(" › ");
}

export const citationOf = (hit) =>
  [titleOf(hit), placeOf(hit), `${hit.uri} [${hit.start}:${hit.end}]`].filter(Boolean).join(", ");

function hitView(hit, at, state) {
  const scores = el("div", { class: "scores", id: `scores-${at}`, hidden: true });
  const toggle = el(
    "button",
    { type: "button", class: "quiet", "aria-expanded": "false", "aria-controls": `scores-${at}`, on: { click: show } },
    "Why here?",
  );
  function show() {
    scores.hidden = !scores.hidden;
    toggle.setAttribute("aria-expanded", String(!scores.hidden));
    if (!scores.hidden && !scores.childNodes.length) explain(scores, hit, state);
  }
  const place = placeOf(hit.highlight ?? hit); // of what is shown; the citation has that of where the hit begins
  const sure = hit.confidence;
  return el(
    "li",
    { class: "hit", "data-at": at, "data-doc": hit.document_id, "data-start": hit.start },
    el(
      "div",
      { class: "head" },
      el(
        "div",
        {},
        el("h2", { dir: "auto" }, el("a", { href: hitAddress(hit, state), class: "open" }, titleOf(hit))),
        el("p", { class: "place", dir: "auto" }, place), // also where it is empty: the marked sentence may have one
      ),
      el(
        "div",
        { class: "rating" },
        el("span", { class: "score", title: "The score that the order is by" }, hit.score.toFixed(2)),
        sure === null
          ? null
          : el("span", { class: "sure", title: "The probability that it answers" }, `${percent(sure)} sure`),
      ),
    ),
    el("p", { class: "excerpt", dir: "auto" }, excerpt(hit)),
    el(
      "p",
      { class: "source" },
      shownUri(hit.uri),
      el("span", { class: "span", title: "Characters of the document" }, `${number(hit.start)}–${number(hit.end)}`),
      hit.duplicates?.length
        ? el(
            "span",
            { class: "also", title: hit.duplicates.map((each) => each.uri).join("\n") },
            `also in ${plural(hit.duplicates.length, "other place")}`,
          )
        : null,
      el("span", { class: "acts" }, toggle, copyButton(citationOf(hit), "Cite")),
    ),
    scores,
  );
}

/** Fills `box`, of which only the first lines are shown, so that the best sentence is in them; of a long one the beginning. */
function showExcerpt(box, hit) {
  for (let later = 0; later <= LEAST; later += LATER) {
    box.replaceChildren(...excerpt(hit, later));
    const best = box.querySelector("mark");
    if (!best || best.getBoundingClientRect().bottom <= box.getBoundingClientRect().bottom + 1) return;
  }
}

/** The hit's text around its best sentence, whole words, marked; begun `later`, but not after that sentence does. */
function excerpt(hit, later = 0) {
  const size = length(hit.text);
  const best = hit.highlight ? hit.highlight.sentence[0] - hit.start : 0;
  let from = Math.min(best, later + Math.max(0, Math.min(best - BEFORE, size - LEAST)));
  let to = Math.min(size, from + MOST);
  if (from && from < best) from += slice(hit.text, from, from + 40).search(/\s|$/) + 1;
  if (to < size)
    to -=
      slice(hit.text, to - 40, to)
        .split("")
        .reverse()
        .join("")
        .search(/\s|$/) + 1;
  const text = slice(hit.text, from, to);
  return [from ? "… " : "", marked(text, hit.start + from, spansOf(hit)), to < size ? " …" : ""];
}

// -- why a hit is where it is -----------------------------------------------------------------------------------------

const SIDES = {
  dense: ["Meaning", "cosine of question and passage"],
  lexical: ["Words", "BM25"],
  rerank: ["Reranked", "cross-encoder"],
};
const STAGES = {
  dense: "by meaning",
  lexical: "by words",
  fuse: "together",
  wording: "with its wording",
  merge: "in the end",
  narrow: "in the end",
};

/** Fills `box` with the scores, and asks once more, with `explain`, for the places in every ranking. */
async function explain(box, hit, state) {
  const rows = Object.entries(SIDES)
    .filter(([side]) => hit.scores[side] !== null)
    .map(([side, [name, what]]) =>
      el(
        "div",
        {},
        el("dt", { title: what }, name),
        el("dd", {}, hit.scores[side].toFixed(side === "lexical" ? 2 : 3), el("small", {}, what)),
      ),
    );
  rows.push(
    el("div", {}, el("dt", {}, "Score"), el("dd", {}, hit.score.toFixed(3), el("small", {}, "what the order is by"))),
  );
  if (hit.confidence !== null)
    rows.push(
      el(
        "div",
        {},
        el("dt", {}, "Confidence"),
        el("dd", {}, percent(hit.confidence, 1), el("small", {}, "probability that it answers")),
      ),
    );
  const places = el("p", { class: "places" }, "Looking at each stage …");
  box.append(el("dl", {}, rows), places);
  const metadata = Object.entries(hit.metadata);
  if (metadata.length) box.append(metadataView(metadata));
  try {
    const answer = await search(state, undefined, { explain: true });
    const found = answer.hits.find((other) => other.id === hit.id && other.start === hit.start);
    if (!found) places.replaceChildren("The collection has changed since; search again.");
    else
      places.replaceChildren(
        "Rank ",
        ...joined(
          Object.entries(found.explain).map(([stage, { rank }]) => [
            el("b", {}, String(rank)),
            ` ${STAGES[stage] ?? `after ${stage}`}`,
          ]),
        ),
        ".",
      );
  } catch (problem) {
    places.replaceChildren(`The stages cannot be told: ${problem.message}`);
  }
}

const joined = (parts) => parts.flatMap((part, at) => (at ? [", ", ...part] : part));

export function metadataView(entries) {
  return el(
    "dl",
    { class: "metadata" },
    entries.map(([name, value]) =>
      el(
        "div",
        {},
        el("dt", { dir: "auto" }, name),
        el("dd", { dir: "auto" }, typeof value === "string" ? value : JSON.stringify(value)),
      ),
    ),
  );
}
