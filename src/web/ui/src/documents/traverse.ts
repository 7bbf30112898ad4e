// What was dropped or picked as a list of files with their paths: folders are walked to the end.

export interface Found {
  path: string;
  file: File;
}

/** Files below dropped entries, and the paths of those that could not be read. */
export interface Findings {
  files: Found[];
  unreadable: string[];
}

/** What systems leave in folders for themselves. */
const CLUTTER: ReadonlySet<string> = new Set([".DS_Store", "Thumbs.db", "desktop.ini"]);

export function isClutter(path: string): boolean {
  const name = path.split("/").at(-1) ?? "";
  return CLUTTER.has(name) || name.startsWith("._") || path.split("/").includes("__MACOSX");
}

export interface Dropped {
  entries: FileSystemEntry[];
  /** Files that are in no file system, such as those that another page gives. */
  loose: File[];
}

/** What is in a drop. It must be taken while the event is handled; the walk may go on after it. */
export function dropped(items: Iterable<DataTransferItem>): Dropped {
  const found: Dropped = { entries: [], loose: [] };
  for (const item of items) {
    if (item.kind !== "file") continue;
    const entry = item.webkitGetAsEntry();
    const file = entry ? null : item.getAsFile();
    if (entry) found.entries.push(entry);
    else if (file) found.loose.push(file);
  }
  return found;
}

/** Walks entries and the folders among them. `limit` bounds what a slip of the hand can begin. */
export async function walk({ entries, loose }: Dropped, limit: number): Promise<Findings> {
  const found: Findings = { files: picked(loose).slice(0, limit), unreadable: [] };
  const waiting = [...entries];
  for (let entry = waiting.shift(); entry; entry = waiting.shift()) {
    if (found.files.length >= limit) break;
    const path = entry.fullPath.replace(/^\/+/, "");
    if (isClutter(path)) continue;
    try {
      if (isFile(entry)) found.files.push({ path, file: await fileOf(entry) });
      // In its place, so that files stay in the order in which a folder shows them.
      else if (isFolder(entry)) waiting.unshift(...(await inside(entry)));
    } catch {
      found.unreadable.push(path);
    }
  }
  return found;
}

/** Files of a picker; of a folder each has its path. */
export function picked(files: Iterable<File>): Found[] {
  return [...files].map((file) => ({ path: file.webkitRelativePath || file.name, file })).filter(({ path }) => !isClutter(path));
}

function isFile(entry: FileSystemEntry): entry is FileSystemFileEntry {
  return entry.isFile;
}

function isFolder(entry: FileSystemEntry): entry is FileSystemDirectoryEntry {
  return entry.isDirectory;
}

function fileOf(entry: FileSystemFileEntry): Promise<File> {
  return new Promise((resolve, reject) => entry.file(resolve, reject));
}

async function inside(folder: FileSystemDirectoryEntry): Promise<FileSystemEntry[]> {
  const reader = folder.createReader();
  const all: FileSystemEntry[] = [];
  // A reader gives a hundred or so at a time, and none at the end.
  for (;;) {
    const some = await new Promise<FileSystemEntry[]>((resolve, reject) => reader.readEntries(resolve, reject));
    if (some.length === 0) return all.sort((a, b) => a.name.localeCompare(b.name));
    all.push(...some);
  }
}
