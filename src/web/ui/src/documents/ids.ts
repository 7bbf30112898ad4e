// The id of a document made from the path of a file, after the rules of the service: 1 to 512 bytes, no control
// characters, no white space at the ends, no empty, `.` or `..` segment.

export const MAX_ID_BYTES = 512;

const encoder = new TextEncoder();

export function bytesOf(text: string): number {
  return encoder.encode(text).length;
}

/** The id for a path, below a prefix; `null` where nothing of it can be an id. */
export function idOf(path: string, prefix = ""): string | null {
  const segments = `${prefix}/${path}`
    .normalize("NFC")
    .replace(/\p{Cs}/gu, "\ufffd")
    .split(/[/\\]/)
    .map((segment) => segment.replace(/\p{Cc}+/gu, " ").trim())
    .filter((segment) => segment !== "" && segment !== "." && segment !== "..");
  // A prefix alone would be the same id for every file.
  const prefixes = prefix.split(/[/\\]/).filter((segment) => !["", ".", ".."].includes(segment.trim())).length;
  if (segments.length <= prefixes) return null;
  const id = segments.join("/");
  return bytesOf(id) <= MAX_ID_BYTES ? id : null;
}

/** What is wrong with an id that was typed in; `null` where nothing is. */
export function wrongWith(id: string): "empty" | "long" | "control" | "space" | "segment" | null {
  if (id === "") return "empty";
  if (bytesOf(id) > MAX_ID_BYTES) return "long";
  if (/\p{Cc}/u.test(id)) return "control";
  if (id.trim() !== id) return "space";
  return id.split("/").some((segment) => segment === "" || segment === "." || segment === "..") ? "segment" : null;
}

export function isCollection(name: string): boolean {
  return /^[a-z0-9_-]{1,64}$/.test(name);
}

/** The media type to send for a file; the service looks at the bytes and the name where there is none. */
export function mediaTypeOf(type: string): string {
  // JSON would be read as an envelope around a document, not as the document.
  const unknown = type === "" || /^application\/(json|x-www-form-urlencoded)\b/i.test(type);
  return unknown ? "application/octet-stream" : type;
}
