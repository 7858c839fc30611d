// The present view as calls of the API: for a shell, and for Python.

import { collectionPath, documentPath, key } from "./api.js";
import { copyButton, el } from "./dom.js";
import { requestOf } from "./search.js";

const base = () => new URL(".", location.href).href.replace(/\/$/, "");
const shell = (text) => `'${text.replaceAll("'", "'\\''")}'`;
const python = (value) => (typeof value === "boolean" ? (value ? "True" : "False") : JSON.stringify(value));
const secret = () => (key() ? ` \\\n  -H "Authorization: Bearer $EMBEDSVC_API_KEY"` : "");

function curl(path, ...more) {
  return [`curl -s ${shell(`${base()}/${path}`)}${secret()}`, ...more].join(" \\\n  ") + "\n";
}

function connected(...lines) {
  const own = key() ? `, api_key=os.environ["EMBEDSVC_API_KEY"]` : "";
  const imports = key() ? "import os\n\nimport embedsvc" : "import embedsvc";
  return `${imports}\n\nwith embedsvc.connect(${python(base())}${own}) as service:\n${lines.map((line) => `    ${line}\n`).join("")}`;
}

const opened = (name, ...lines) => connected(`docs = service.open(${python(name)})`, ...lines);

/** [title, curl, Python] of each call that the view makes. */
export function callsOf(state, intoName) {
  const calls = [];
  const name = state.c || "handbook";
  if (state.view === "search") {
    const request = requestOf({ ...state, q: state.q || "How do refunds work?" }, true);
    const given = Object.entries(request).map(([field, value]) =>
      field === "query" ? python(value) : `${field}=${python(value)}`,
    );
    calls.push([
      "Search",
      curl(
        `${collectionPath(name)}/search`,
        "-H 'Content-Type: application/json'",
        `-d ${shell(JSON.stringify(request))}`,
      ),
      opened(
        name,
        "answer = docs.search(",
        ...given.map((each) => `    ${each},`),
        ")",
        "for hit in answer.hits:",
        `    print(f"{hit.score:.2f}  {hit.title}, {hit.uri} [{hit.start}:{hit.end}]")`,
        "    print(hit.text)",
      ),
    ]);
  }
  if (state.view === "collections")
    calls.push([
      "Collections",
      curl("v1/collections"),
      connected("for name in service.names():", "    print(name, service.open(name).describe())"),
    ]);
  if (state.view === "documents")
    calls.push([
      "Documents",
      curl(`${collectionPath(name)}/documents?limit=50&offset=${state.offset}`),
      opened(
        name,
        `for document in docs.documents(limit=50, offset=${state.offset}):`,
        "    print(document.id, document.uri, document.characters)",
      ),
    ]);
  if (state.view === "add") {
    const into = intoName || name;
    calls.push([
      "Add documents",
      `${curl(`${collectionPath(into)}/documents`, "-F 'files=@handbook.pdf'")}\n# How it goes, by the job that came back:\n${curl("v1/jobs/JOB")}`,
      opened(
        into,
        `report = docs.index("handbook.pdf")`,
        "print(report.counts)",
        "for outcome in report.failed:",
        "    print(outcome.uri, outcome.reason)",
      ),
    ]);
  }
  if (state.doc)
    calls.push([
      "This document",
      curl(`${documentPath(name, state.doc)}${state.end ? `?start=${state.start}&end=${state.end}` : ""}`),
      opened(
        name,
        `document = docs.get(${python(state.doc)})`,
        state.end ? `print(document.text[${state.start}:${state.end}])` : "print(document.text)",
      ),
    ]);
  return calls;
}

export function callsView(calls) {
  return calls.map(([title, ...texts]) =>
    el(
      "section",
      { class: "call" },
      calls.length > 1 ? el("h3", {}, title) : null,
      ["curl", "Python"].map((language, at) =>
        el(
          "figure",
          {},
          el("figcaption", {}, language, copyButton(texts[at])),
          el(
            "pre",
            { tabindex: "0", "aria-label": `${title}: ${language}` },
            el("code", { "data-language": language.toLowerCase() }, texts[at]),
          ),
        ),
      ),
    ),
  );
}
