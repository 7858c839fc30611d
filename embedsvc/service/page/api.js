// Requests to the service, and what goes wrong with them, said with what to do.

const KEY = "embedsvc.key";

export const key = () => sessionStorage.getItem(KEY) ?? "";

export function setKey(value) {
  if (value) sessionStorage.setItem(KEY, value);
  else sessionStorage.removeItem(KEY);
}

export class Problem extends Error {
  /** `status` 0: no answer came. `advice`: what to do about it. */
  constructor(status, title, detail, requestId = "") {
    super(detail || title);
    Object.assign(this, { status, title, detail, requestId, advice: adviceFor(status) });
  }
}

function adviceFor(status) {
  if (status === 0) return "Is it running? Start it with embedsvc serve, then try again.";
  if (status === 401 || status === 403) return "Enter a key that may do this.";
  if (status === 413) return "Send less at once, or raise max_body_mb and max_file_mb in the settings of the service.";
  if (status === 429 || status === 503) return "It is busy or still starting. Try again in a few seconds.";
  if (status === 507) return "Free some space on the disk of the service; what was there before stands.";
  if (status >= 500) return "The log of the service says more.";
  return "";
}

const heading = { 0: "The service does not answer", 403: "This key may not do that" };

/** Of a key, the service tells programs which header to send; readers are told what to do. */
const keyHeading = () => (key() ? "This key is not accepted" : "A key is needed");

export function problemOf(status, body, requestId) {
  let told = {};
  try {
    told = JSON.parse(body);
  } catch {
    // From something between here and the service; its HTML is of no use to a reader.
  }
  // Of a question that is too long, the service tells programs a way out that this page does not have.
  const detail = typeof told.fact === "string" ? `${told.fact} Shorten it.` : told.detail;
  return new Problem(
    status,
    (status === 401 ? keyHeading() : heading[status]) ?? told.title ?? `The service answered ${status}`,
    typeof detail === "string" && status !== 401 ? detail : "",
    requestId ?? "",
  );
}

export const headers = () => (key() ? { authorization: `Bearer ${key()}` } : {});

/** GET, or POST of `json`; gives what JSON.parse gives. Throws Problem, and AbortError by `signal`. */
export async function ask(path, { json, signal, as = "json" } = {}) {
  let response;
  let body;
  try {
    response = await fetch(path, {
      method: json === undefined ? "GET" : "POST",
      headers: { ...headers(), ...(json === undefined ? {} : { "content-type": "application/json" }) },
      body: json === undefined ? undefined : JSON.stringify(json),
      signal,
      credentials: "same-origin",
    });
    body = await response.text();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem(0, heading[0], "");
  }
  if (!response.ok) throw problemOf(response.status, body, response.headers.get("x-request-id"));
  if (as === "text") return body;
  try {
    return JSON.parse(body);
  } catch {
    throw new Problem(
      response.status,
      "What came is no answer of embedsvc",
      "Something else may listen at this address.",
    );
  }
}

export const collectionPath = (name) => `v1/collections/${encodeURIComponent(name)}`;

/** Ids may hold slashes, which stay; what else an address would take for its own is escaped. */
export const documentPath = (name, id) =>
  `${collectionPath(name)}/documents/${id.split("/").map(encodeURIComponent).join("/")}`;

/** Sends a form by XMLHttpRequest, which alone tells how much has gone: `told` gets bytes. */
export function send(path, form, told) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("POST", path);
    for (const [name, value] of Object.entries(headers())) request.setRequestHeader(name, value);
    request.upload.addEventListener("progress", (event) => told(event.loaded));
    request.addEventListener("error", () =>
      reject(new Problem(0, heading[0], "The connection broke while the files were sent.")),
    );
    request.addEventListener("load", () => {
      if (request.status === 202) resolve(JSON.parse(request.responseText));
      else reject(problemOf(request.status, request.responseText, request.getResponseHeader("x-request-id")));
    });
    request.send(form);
  });
}
