// The page: what the address says is asked for and shown; keys, dialogs, files that are dropped.

import * as address from "./address.js";
import { key, setKey } from "./api.js";
import { collectionsView, documentsView, list } from "./collections.js";
import { $, el, plural } from "./dom.js";
import { filesOf, ingestView, intoName, problemView } from "./ingest.js";
import * as reader from "./reader.js";
import { answerView, mark as markHits, search } from "./search.js";
import { callsOf, callsView } from "./snippets.js";

const LAST = "embedsvc.collection";
const SIZES = [5, 10, 20, 50, 100];

let collections; // a promise of all of them, once they were asked for
let answer; // the answer that is shown
let shown = ""; // what the view shows, as far as it depends on the address
let asking; // what is under way

const known = (again = false) => {
  if (!collections || again) {
    collections = list();
    collections.catch(() => (collections = undefined));
  }
  return collections;
};

// -- the view --------------------------------------------------------------------------------------------------------

async function render(state) {
  document.documentElement.dataset.view = state.view;
  for (const link of document.querySelectorAll("nav a")) {
    const current = link.dataset.view === (state.view === "documents" ? "collections" : state.view);
    if (current) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.body.classList.toggle("reading", Boolean(state.doc));
  document.documentElement.classList.toggle("home", state.view === "search" && !state.q);
  document.title = [
    state.view === "search"
      ? state.q
      : { collections: "Collections", documents: state.c, add: "Add documents" }[state.view],
    "embedsvc",
  ]
    .filter(Boolean)
    .join(" · ");
  fill(state);
  if (!state.doc) reader.close();
  await Promise.all([showView(state), state.doc && showDocument(state)]);
}

const VIEWED = { search: ["c", "q", "mode", "filter", "k"], collections: [], documents: ["c", "offset"], add: ["c"] };

async function showView(state) {
  const wanted = JSON.stringify([state.view, ...VIEWED[state.view].map((name) => state[name])]);
  if (wanted === shown) return select(state);
  shown = wanted;
  answer = undefined;
  asking?.abort();
  asking = new AbortController();
  const { signal } = asking;
  document.body.classList.add("busy");
  try {
    const view = await VIEWS[state.view](state, signal);
    if (signal.aborted) return undefined;
    $("view").replaceChildren(...[view].flat().filter(Boolean));
    document.body.classList.toggle("blank", state.view === "search" && Boolean(view?.matches?.(".ingest")));
    select(state);
    if (answer) mark(state, view, signal);
  } catch (problem) {
    if (problem.name === "AbortError") return undefined;
    shown = "";
    document.body.classList.remove("blank");
    $("view").replaceChildren(problemView(problem, again, needsKey(problem) ? openKey : null));
  } finally {
    if (!signal.aborted) document.body.classList.remove("busy");
  }
  return undefined;
}

async function mark(state, view, signal) {
  try {
    await markHits(answer, view, state, signal);
  } catch {
    return; // the hits are there; only where to look in them is not told
  }
  if (!signal.aborted && address.read().doc) showDocument(address.read());
}

const VIEWS = {
  async search(state, signal) {
    if (state.q && state.c) {
      known().then(
        (all) => choices(all, state),
        () => {},
      );
      answer = await search(state, signal);
      localStorage.setItem(LAST, state.c);
      return answerView(answer, state);
    }
    const all = await known();
    choices(all, state);
    if (!all.length) return ingestView(state, all, true);
    if (!state.c) {
      const c = usual(all);
      if (state.q) {
        queueMicrotask(() => address.go({ c }, { replace: true }));
        return [];
      }
      $("c").value = c;
    }
    return about(all, $("c").value);
  },
  collections: async () => {
    const all = await known(true);
    choices(all, address.read());
    return all.length ? collectionsView(all) : ingestView(address.read(), all, true);
  },
  documents: (state, signal) => documentsView(state, signal),
  add: async (state) => {
    const all = await known();
    choices(all, state);
    return ingestView({ ...state, c: state.c || usual(all) }, all, !all.length);
  },
};

/** The collection that was asked last, or else the first that can be; undefined where there is none. */
function usual(all) {
  const last = localStorage.getItem(LAST);
  return (all.find((each) => each.name === last) ?? all.find((each) => !each.error) ?? all[0])?.name;
}

/** Below an empty search box: what is searched. */
function about(all, name) {
  const { documents, passages, error } = all.find((each) => each.name === name) ?? {};
  if (error) return el("p", { class: "about notice" }, error);
  return el(
    "p",
    { class: "about" },
    documents === undefined ? "" : `${plural(documents, "document")}, ${plural(passages, "passage")} in ${name}`,
  );
}

function again() {
  shown = "";
  render(address.read());
}

async function showDocument(state) {
  const hit = answer?.hits.find(
    (each) => each.document_id === state.doc && each.start === state.start && each.end === state.end,
  );
  try {
    await reader.open(state, hit);
  } catch (problem) {
    const box = $("reader");
    box.replaceChildren(
      el(
        "header",
        {},
        el(
          "div",
          { class: "top" },
          el("h2", {}, "The document cannot be shown"),
          el(
            "button",
            { type: "button", class: "shut", "aria-label": "Close the document", on: { click: closeDocument } },
            "×",
          ),
        ),
      ),
      problemView(problem, () => showDocument(address.read()), needsKey(problem) ? openKey : null),
    );
  }
}

// -- the form --------------------------------------------------------------------------------------------------------

function fill(state) {
  if (document.activeElement !== $("q") || state.q) $("q").value = state.q;
  for (const radio of document.querySelectorAll("input[name=mode]")) radio.checked = radio.value === state.mode;
  const sizes = SIZES.includes(state.k) ? SIZES : [...SIZES, state.k].sort((a, b) => a - b);
  if ($("k").options.length !== sizes.length || ![...$("k").options].some((option) => Number(option.value) === state.k))
    $("k").replaceChildren(...sizes.map((size) => el("option", { value: size }, String(size))));
  $("k").value = String(state.k);
  $("filter").value = state.filter;
  if (state.filter) showFilter(true);
  if (state.c && ![...$("c").options].some((option) => option.value === state.c))
    $("c").append(el("option", { value: state.c }, state.c));
  if (state.c) $("c").value = state.c;
}

function choices(all, state) {
  const names = all.map((each) => each.name);
  if (state.c && !names.includes(state.c)) names.push(state.c);
  const chosen = state.c || $("c").value;
  $("c").replaceChildren(...names.map((name) => el("option", { value: name }, name)));
  if (names.includes(chosen)) $("c").value = chosen;
}

function showFilter(open) {
  $("filter-row").hidden = !open;
  $("filter-open").setAttribute("aria-expanded", String(open));
}

const asked = () => ({
  view: "search",
  q: $("q").value.trim(),
  c: $("c").value,
  mode: document.querySelector("input[name=mode]:checked").value,
  k: Number($("k").value),
  filter: $("filter").value.trim(),
});

function submit() {
  const state = asked();
  if (
    JSON.stringify({ ...address.read(), ...state, doc: "", start: 0, end: 0, offset: 0 }) ===
    JSON.stringify(address.read())
  )
    return again();
  address.go({ ...state, doc: "", start: 0, end: 0, offset: 0 });
  return undefined;
}

$("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  if ($("q").value.trim()) submit();
});
for (const id of ["c", "k"]) $(id).addEventListener("change", () => changed());
for (const radio of document.querySelectorAll("input[name=mode]")) radio.addEventListener("change", () => changed());
$("filter").addEventListener("change", () => changed());

/** Another choice asks at once, where something was asked. */
function changed() {
  const state = address.read();
  if (state.view === "search" && state.q) submit();
  else address.go(asked(), { replace: true });
}

$("filter-open").addEventListener("click", () => {
  const open = $("filter-row").hidden;
  showFilter(open);
  if (open) $("filter").focus();
  else if ($("filter").value) {
    $("filter").value = "";
    changed();
  }
});

// -- hits and keys ---------------------------------------------------------------------------------------------------

const hits = () => [...document.querySelectorAll(".hit")];

/** Marks the hit whose document is open. */
function select(state) {
  for (const hit of hits()) {
    const current = Boolean(state.doc) && hit.dataset.doc === state.doc && Number(hit.dataset.start) === state.start;
    hit.classList.toggle("current", current);
    const { top } = hit.getBoundingClientRect();
    if (current && (top < 60 || top > innerHeight - 120)) hit.scrollIntoView({ block: "nearest" });
  }
}

function step(by) {
  const all = hits();
  if (!all.length) return;
  const isOpen = Boolean(address.read().doc);
  const now = all.findIndex((hit) =>
    isOpen ? hit.classList.contains("current") : hit.contains(document.activeElement),
  );
  const next = all[Math.max(0, Math.min(all.length - 1, now + by))];
  const link = next.querySelector(".open");
  if (isOpen) address.visit(link.getAttribute("href"), true);
  else {
    link.focus({ preventScroll: true });
    next.scrollIntoView({ block: "nearest" });
  }
}

function closeDocument() {
  const { doc, start } = address.read();
  address.go({ doc: "", start: 0, end: 0 });
  hits()
    .find((hit) => hit.dataset.doc === doc && Number(hit.dataset.start) === start)
    ?.querySelector(".open")
    .focus();
}

let given = false; // whether the search box has the focus without being asked, and no key was pressed since

addEventListener("keydown", (event) => {
  const first = given;
  given = false;
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  const typing = event.target.closest("input:not([type=radio]), textarea, select");
  if (event.key === "Escape") {
    if (address.read().doc) closeDocument();
    else if (typing) event.target.blur();
    return;
  }
  if (typing) {
    if (first && event.key === "/" && !$("q").value) act(() => {}); // it is where that key leads to
    if (event.key === "ArrowDown" && event.target === $("q") && hits().length) act(() => step(1));
    return;
  }
  if (event.key === "/") act(() => (showAsk(), $("q").focus(), $("q").select()));
  else if (event.key === "?") act(() => $("help").showModal());
  else if (event.key === "j") act(() => step(1));
  else if (event.key === "k") act(() => step(-1));
  else if (
    (event.key === "ArrowDown" || event.key === "ArrowUp") &&
    !event.target.closest("#reader, fieldset, pre") &&
    hits().length
  )
    act(() => step(event.key === "ArrowDown" ? 1 : -1));

  function act(what) {
    event.preventDefault();
    what();
  }
});

function showAsk() {
  if (address.read().view !== "search") address.go({ view: "search", doc: "" });
}

document.addEventListener("click", (event) => {
  const link = event.target.closest('a[href^="?"]');
  if (
    !link ||
    event.defaultPrevented ||
    event.button ||
    event.ctrlKey ||
    event.metaKey ||
    event.shiftKey ||
    event.altKey
  )
    return;
  event.preventDefault();
  address.visit(link.getAttribute("href"));
  if (link.matches(".open")) $("reader").focus({ preventScroll: true });
});

// -- dialogs ---------------------------------------------------------------------------------------------------------

const needsKey = (problem) => problem.status === 401 || problem.status === 403;

function openKey() {
  $("key-value").value = key();
  $("key").showModal();
  $("key-value").select();
}

$("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  setKey($("key-value").value.trim());
  $("key").close();
  collections = undefined;
  again();
});
$("key-open").addEventListener("click", openKey);
$("help-open").addEventListener("click", () => $("help").showModal());
$("api-open").addEventListener("click", () => {
  $("api-calls").replaceChildren(
    ...callsView(callsOf({ ...address.read(), c: address.read().c || $("c").value }, intoName())),
  );
  $("api").showModal();
});
for (const dialog of document.querySelectorAll("dialog"))
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog || event.target.matches(".close")) dialog.close();
  });

// -- files that are dropped, wherever --------------------------------------------------------------------------------

let depth = 0; // of elements that the mouse has entered with files

const carriesFiles = (event) => event.dataTransfer?.types.includes("Files");

function over(isOver) {
  if (!isOver) depth = 0;
  $("drop").hidden = !isOver;
  $("drop").firstElementChild.textContent = `Add to ${intoName() || $("c").value || "a new collection"}`;
}

addEventListener("dragenter", (event) => {
  if (carriesFiles(event)) over(Boolean((depth += 1)));
});
addEventListener("dragleave", (event) => {
  if (carriesFiles(event) && (depth -= 1) <= 0) over(false);
});
addEventListener("dragover", (event) => carriesFiles(event) && event.preventDefault());
addEventListener("drop", async (event) => {
  if (!carriesFiles(event)) return;
  event.preventDefault();
  over(false);
  const files = filesOf(event.dataTransfer); // at once: afterwards the browser has forgotten them
  if (!document.querySelector(".ingest")) {
    address.go({ view: "add", c: $("c").value }, { from: address.read("") });
    await rendering;
  }
  document.querySelector(".ingest")?.take(await files);
});

addEventListener("collections-changed", async () => choices(await known(true), address.read()));

let rendering = render(address.read());
address.onChange((state) => (rendering = render(state)));
rendering.then(() => {
  if (address.read().q || !matchMedia("(hover: hover)").matches || address.read().view !== "search") return;
  $("q").focus();
  given = true;
});
