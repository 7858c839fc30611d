// Files into a collection: dropped or chosen, sent in parts, followed until each one's fate is known.

import * as address from "./address.js";
import { ask, collectionPath, send } from "./api.js";
import { $, announce, bytes, copyButton, el, number, plural } from "./dom.js";

const PART = 32_000_000;
const PART_FILES = 500;
const POLL_MS = [150, 250, 400, 700, 1000];
const MOST_LINES = 500;
// Bytes and files of one request, milliseconds between looks at a job, lines of the report that are shown.
const NAME = "[A-Za-z0-9][A-Za-z0-9._\\-]{0,63}";
const NAMES = "Use 1 to 64 letters, digits, dots, underscores or dashes, the first one a letter or digit.";
const WORDS = {
  indexed: "indexed",
  replaced: "replaced",
  unchanged: "unchanged",
  removed: "removed",
  duplicate: "left out as a duplicate",
  empty: "without text",
  quarantined: "not read",
};

export function ingestView(state, collections, isFirst) {
  const name = el("input", {
    id: "into",
    value: state.c || collections[0]?.name || "documents",
    list: "names",
    "aria-label": "Collection",
    pattern: NAME,
    required: true,
    on: { input: checkName },
    spellcheck: "false",
    autocapitalize: "off",
    maxlength: 64,
  });
  function checkName() {
    name.setCustomValidity(name.validity.patternMismatch ? NAMES : "");
  }
  checkName();
  const files = el("input", {
    type: "file",
    multiple: true,
    class: "unseen",
    tabindex: "-1",
    "aria-hidden": "true",
    id: "files",
  });
  const folder = el("input", {
    type: "file",
    webkitdirectory: true,
    class: "unseen",
    tabindex: "-1",
    "aria-hidden": "true",
    id: "folder",
  });
  const report = el("div", { id: "report" });
  for (const input of [files, folder])
    input.addEventListener("change", () => {
      start([...input.files].map((file) => [file.webkitRelativePath || file.name, file]));
      input.value = "";
    });
  const zone = el(
    "div",
    { class: "zone" },
    el("p", { class: "lead" }, "Drop files or folders here"),
    el("p", { class: "hint" }, "Text, Markdown, PDF, office files, mail, e-books, HTML, data, code, archives"),
    el(
      "p",
      { class: "row" },
      el("button", { type: "button", class: "primary", on: { click: () => files.click() } }, "Choose files"),
      el("button", { type: "button", on: { click: () => folder.click() } }, "Choose a folder"),
    ),
  );
  const view = el(
    "div",
    { class: "ingest" },
    el("h1", {}, isFirst ? "Nothing is indexed yet" : "Add documents"),
    isFirst ? first() : null,
    el(
      "p",
      { class: "into" },
      el("label", { for: "into" }, "Into the collection "),
      name,
      el(
        "datalist",
        { id: "names" },
        collections.map((each) => el("option", { value: each.name })),
      ),
    ),
    el(
      "p",
      { class: "hint" },
      "A name that is not there yet makes a new collection. A file of the same name replaces the earlier one.",
    ),
    files,
    folder,
    zone,
    report,
  );
  let running = false;
  view.take = start;
  return view;

  async function start(given) {
    if (running) return announce("Wait until these files are in.");
    if (!name.reportValidity() || !given.length) return undefined;
    running = true;
    zone.classList.add("busy");
    try {
      await ingest(name.value, given, report);
    } finally {
      running = false;
      zone.classList.remove("busy");
    }
    return undefined;
  }
}

function first() {
  const command = "embedsvc index ~/papers -c papers";
  return el(
    "p",
    { class: "command" },
    "In a terminal ",
    el("code", {}, command),
    copyButton(command),
    el("span", {}, " or here:"),
  );
}

/** Files by their paths, from what was dropped, folders gone through. */
export async function filesOf(transfer) {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.length) return [...transfer.files].map((file) => [file.name, file]);
  const found = [];
  for (const entry of entries) await walk(entry);
  return found;

  async function walk(entry) {
    if (entry.isFile)
      found.push([
        entry.fullPath.replace(/^\//, ""),
        await new Promise((resolve, reject) => entry.file(resolve, reject)),
      ]);
    else {
      const reader = entry.createReader();
      let some;
      do {
        some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
        for (const each of some) await walk(each);
      } while (some.length);
    }
  }
}

/** Files in parts that one request may carry; those that the service would refuse are `refused`, with the reason. */
export function parts(files, limits) {
  const most = Math.min(limits.max_file_mb, limits.max_body_mb) * 1_000_000 - 2000;
  const refused = [];
  const parted = [];
  let size = Infinity;
  for (const [path, file] of files) {
    if (file.size > most) {
      const setting = limits.max_file_mb <= limits.max_body_mb ? "max_file_mb" : "max_body_mb";
      refused.push({
        uri: path,
        status: "quarantined",
        reason: `${bytes(file.size)}, more than the ${limits[setting]} MB that the service takes (${setting} in its settings)`,
      });
      continue;
    }
    if (size + file.size > PART || parted.at(-1).length >= PART_FILES) {
      parted.push([]);
      size = 0;
    }
    parted.at(-1).push([path, file]);
    size += file.size;
  }
  return { parted, refused };
}

async function ingest(collection, files, report) {
  const bar = el(
    "div",
    { class: "progress", role: "progressbar", "aria-label": "Progress", "aria-valuemin": 0, "aria-valuemax": 100 },
    el("i"),
  );
  const said = el("p", { class: "said" }, "Sending …");
  const lines = el("ul", { class: "lines" });
  report.replaceChildren(el("h2", {}, `${plural(files.length, "file")} into ${collection}`), bar, said, lines);
  const total = files.reduce((sum, [, file]) => sum + file.size, 0) || 1;
  const counts = {};
  let [done, passages] = [0, 0];
  let shown = 0;
  const began = performance.now();
  try {
    const limits = await ask("page/service.json");
    const { parted, refused } = parts(files, limits);
    refused.forEach(tell);
    done += files
      .filter(([, file]) => file.size > Math.min(limits.max_file_mb, limits.max_body_mb) * 1_000_000 - 2000)
      .reduce((sum, [, file]) => sum + file.size, 0);
    for (const part of parted) {
      const size = part.reduce((sum, [, file]) => sum + file.size, 0);
      const form = new FormData();
      for (const [path, file] of part) form.append("files", file, path);
      said.textContent = `Sending ${bytes(size)} …`;
      const job = await send(`${collectionPath(collection)}/documents`, form, (sent) =>
        move(done + 0.3 * Math.min(sent, size)),
      );
      await follow(job.job, size);
      done += size;
      move(done);
    }
    finish();
  } catch (problem) {
    said.replaceChildren(problemView(problem));
  }

  async function follow(id, size) {
    const seen = passages;
    for (let look = 0; ; look += 1) {
      const job = await ask(`v1/jobs/${encodeURIComponent(id)}`);
      const through = Object.values(job.counts).reduce((sum, count) => sum + count, 0);
      move(done + size * (0.3 + 0.7 * (job.progress ?? 0)));
      passages = seen + job.passages;
      said.textContent = saidOf(job, through);
      if (!["queued", "waiting", "running"].includes(job.status)) {
        for (const line of (await ask(`v1/jobs/${encodeURIComponent(id)}/report`, { as: "text" })).split("\n"))
          if (line) tell(JSON.parse(line));
        if (job.status !== "done")
          throw Object.assign(new Error(job.error ?? `The job is ${job.status}.`), {
            title: "It did not go through",
            detail: job.error,
            advice: "What was told as indexed stays. Send the same again: only the rest is done.",
          });
        return;
      }
      await new Promise((resolve) => setTimeout(resolve, POLL_MS[Math.min(look, POLL_MS.length - 1)]));
    }
  }

  function saidOf(job, through) {
    if (job.status === "queued") return "Waiting for its turn …";
    if (job.status === "waiting") return "Another process writes to this collection; waiting for it …";
    const rate = job.tokens_per_s ? `, ${number(Math.round(job.tokens_per_s))} tokens/s` : "";
    const left = job.eta_s ? `, about ${Math.max(1, Math.round(job.eta_s))} s left` : "";
    return `${number(through)} of ${plural(Math.max(job.total, through), "input")}, ${plural(passages, "passage")}${rate}${left}`;
  }

  function move(value) {
    const share = Math.min(100, (100 * value) / total);
    bar.firstChild.style.width = `${share}%`;
    bar.setAttribute("aria-valuenow", String(Math.round(share)));
  }

  /** A line of the report; what needs a look goes first. */
  function tell(line) {
    counts[line.status] = (counts[line.status] ?? 0) + 1;
    const bad = line.status === "quarantined" || line.status === "empty" || line.status === "duplicate";
    if (shown >= MOST_LINES && !bad) return;
    shown += 1;
    const reason = line.reason ?? (line.like ? `like ${line.like.uri}` : "");
    const item = el(
      "li",
      { class: bad ? `line ${line.status}` : "line" },
      el("span", { class: "what" }, WORDS[line.status]),
      el("span", { class: "name", dir: "auto" }, line.uri),
      el("span", { class: "size" }, line.passages ? plural(line.passages, "passage") : ""),
      reason ? el("span", { class: "reason" }, reason) : null,
      (line.notes ?? []).filter((note) => note !== reason).map((note) => el("span", { class: "reason" }, note)),
    );
    const firstGood = bad ? lines.querySelector(".line:not(.quarantined):not(.empty):not(.duplicate)") : null;
    lines.insertBefore(item, firstGood);
  }

  function finish() {
    move(total);
    const told = Object.keys(WORDS)
      .filter((status) => counts[status])
      .map((status) => `${number(counts[status])} ${WORDS[status]}`);
    const inputs = Object.values(counts).reduce((sum, count) => sum + count, 0);
    bar.classList.add("done");
    said.replaceChildren(
      el("strong", {}, told.join(", ")),
      ` · ${plural(passages, "passage")} · ${((performance.now() - began) / 1000).toFixed(1)} s `,
      inputs > lines.childElementCount ? `· ${number(lines.childElementCount)} shown ` : "",
      el("a", { href: address.href({ view: "search", c: collection }, address.read("")) }, "Search it"),
    );
    announce(told.join(", "));
    dispatchEvent(new CustomEvent("collections-changed"));
  }
}

/** What went wrong, and what to do. `again`: called by a button, where trying again may help; not where the request is
 * at fault. */
export function problemView(problem, again, enterKey) {
  const mayPass = problem.status < 400 || problem.status === 429 || problem.status >= 500;
  const detail = problem.detail || (problem.title ? "" : problem.message);
  announce(`${problem.title}. ${problem.detail ?? ""}`);
  return el(
    "div",
    { class: "problem" },
    el("h2", {}, problem.title ?? "This went wrong"),
    detail ? el("p", { class: detail.includes("\n") ? "detail code" : "detail" }, detail) : null,
    problem.advice ? el("p", { class: "hint" }, problem.advice) : null,
    problem.requestId && problem.status >= 500
      ? el("p", { class: "hint" }, "Request ", el("code", {}, problem.requestId))
      : null,
    el(
      "p",
      { class: "row" },
      again && mayPass ? el("button", { type: "button", class: "primary", on: { click: again } }, "Try again") : null,
      enterKey ? el("button", { type: "button", class: "primary", on: { click: enterKey } }, "Enter a key") : null,
    ),
  );
}

export const intoName = () => $("into")?.value ?? "";
