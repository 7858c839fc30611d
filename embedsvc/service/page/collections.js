// What collections there are, and the documents in one.

import * as address from "./address.js";
import { ask, collectionPath } from "./api.js";
import { bytes, el, number, percent, plural, shownUri } from "./dom.js";
import { titleOf } from "./search.js";

const PAGE = 50;
const KINDS = {
  flat: ["exact", "every vector is compared: nothing can be missed"],
  hnsw8: ["graph", "a graph over 8-bit codes (hnsw8)"],
  ivfpq4: ["inverted lists", "inverted lists of 4-bit product codes (ivfpq4)"],
  "disk-ivfrq": ["on disk", "the store's own index, for collections past memory (disk-ivfrq)"],
  cagra16: ["graph on GPU", "a graph in 16 bits on a GPU (cagra16)"],
};

export const list = async (signal) => (await ask("v1/collections", { signal })).collections;

export function collectionsView(collections) {
  return el(
    "div",
    { class: "collections" },
    el("h1", {}, "Collections"),
    el(
      "ul",
      {},
      collections.map((collection) =>
        el("li", { class: "collection" }, collection.error ? broken(collection) : whole(collection)),
      ),
    ),
  );
}

function broken({ name, error }) {
  return [
    el("h2", {}, name),
    el("p", { class: "notice" }, el("strong", {}, "It cannot be opened. "), error),
    el("p", { class: "hint" }, "In a terminal: ", el("code", {}, `embedsvc collections verify ${name}`)),
  ];
}

function whole(collection) {
  const { name, index, contract, chunking } = collection;
  const [kind, what] = KINDS[index.kind] ?? [index.kind, ""];
  return [
    el("h2", {}, el("a", { href: address.href({ view: "search", c: name }, address.read("")) }, name)),
    el(
      "dl",
      { class: "figures" },
      figure(number(collection.documents), collection.documents === 1 ? "document" : "documents"),
      figure(
        number(collection.passages),
        collection.passages === 1 ? "passage" : "passages",
        collection.vectors ? `${plural(collection.vectors, "vector")}` : "",
      ),
      figure(kind, "vector index", what),
      recall(index),
      figure(bytes(collection.bytes), "on disk"),
    ),
    el(
      "p",
      { class: "made" },
      [
        contract.model,
        contract.dtype,
        `${contract.dimension} dimensions`,
        chunking.whole ? "whole documents" : `passages of ${chunking.window} tokens`,
        `version ${number(collection.version)}`,
      ].join(" · "),
    ),
    el(
      "p",
      { class: "links" },
      el("a", { href: address.href({ view: "search", c: name }, address.read("")) }, "Search"),
      el("a", { href: address.href({ view: "documents", c: name }, address.read("")) }, "Documents"),
      el("a", { href: address.href({ view: "add", c: name }, address.read("")) }, "Add"),
    ),
  ];
}

const figure = (value, label, title) => el("div", { title }, el("dt", {}, label), el("dd", {}, value));

/** Measured against exact search; of live queries where some were measured, else of the collection's own sentences. */
function recall(index) {
  if (index["recall@10"] === undefined) return figure("–", "recall@10", "not measured yet: there is no index yet");
  const measured = index.live ?? index;
  const value = measured["recall@10"];
  const [low, high] = measured.recall_interval;
  const sample = measured.recall_sample;
  const title = sample
    ? `95 % interval ${percent(low, 1)} to ${percent(high, 1)}, by ${number(sample)} ${index.live ? "of people's queries" : "queries"}`
    : "by construction: the index is exact";
  return figure(percent(value, value === 1 ? 0 : 1), sample ? "recall@10, measured" : "recall@10", title);
}

export async function documentsView(state, signal) {
  const page = await ask(`${collectionPath(state.c)}/documents?limit=${PAGE}&offset=${state.offset}`, { signal });
  const last = Math.min(page.total, page.offset + page.documents.length);
  return el(
    "div",
    { class: "documents" },
    el("h1", {}, state.c),
    el(
      "p",
      { class: "facts" },
      page.total
        ? `${number(page.offset + 1)}–${number(last)} of ${plural(page.total, "document")}`
        : "No documents yet. ",
      page.total ? null : el("a", { href: address.href({ view: "add" }, state) }, "Add some"),
    ),
    el(
      "ol",
      { class: "hits" },
      page.documents.map((document, at) =>
        el(
          "li",
          { class: "hit slim", "data-at": at, "data-doc": document.id, "data-start": 0 },
          el(
            "h2",
            { dir: "auto" },
            el(
              "a",
              { class: "open", href: address.href({ doc: document.id, start: 0, end: 0 }, state) },
              titleOf(document),
            ),
          ),
          el(
            "p",
            { class: "source" },
            shownUri(document.uri),
            el(
              "span",
              { class: "span" },
              `${plural(document.passages, "passage")}, ${plural(document.characters, "character")}`,
            ),
          ),
        ),
      ),
    ),
    el(
      "p",
      { class: "links" },
      state.offset > 0
        ? el("a", { href: address.href({ offset: Math.max(0, state.offset - PAGE), doc: "" }, state) }, "‹ Before")
        : null,
      last < page.total
        ? el("a", { href: address.href({ offset: state.offset + PAGE, doc: "" }, state) }, "After ›")
        : null,
    ),
  );
}
