import { expect, it } from "vitest";
import { dropped, isClutter, picked, walk, type Dropped } from "./traverse";

function file(fullPath: string, readable = true) {
  const name = fullPath.split("/").at(-1) ?? "";
  return {
    isFile: true, isDirectory: false, name, fullPath,
    file: (done: (file: File) => void, failed: (error: Error) => void) =>
      readable ? done(new File(["x"], name)) : failed(new Error("not readable")),
  } as unknown as FileSystemEntry;
}

function folder(fullPath: string, entries: FileSystemEntry[], batch = 100) {
  return {
    isFile: false, isDirectory: true, name: fullPath.split("/").at(-1), fullPath,
    createReader: () => {
      const left = [...entries];
      return { readEntries: (done: (entries: FileSystemEntry[]) => void) => done(left.splice(0, batch)) };
    },
  } as unknown as FileSystemEntry;
}

const of = (...entries: FileSystemEntry[]): Dropped => ({ entries, loose: [] });

it("finds the files of folders inside folders, in order", async () => {
  const drop = of(folder("/h", [file("/h/b.md"), folder("/h/a", [file("/h/a/2.md"), file("/h/a/1.md")])]), file("/z.md"));
  const { files, unreadable } = await walk(drop, 1000);
  expect(files.map(({ path }) => path)).toEqual(["h/a/1.md", "h/a/2.md", "h/b.md", "z.md"]);
  expect(unreadable).toEqual([]);
});

it("finds all files of a large folder, which comes in pieces", async () => {
  const many = Array.from({ length: 250 }, (_, n) => file(`/big/${n}.md`));
  expect((await walk(of(folder("/big", many)), 1000)).files).toHaveLength(250);
});

it("stops at the limit", async () => {
  const many = Array.from({ length: 250 }, (_, n) => file(`/big/${n}.md`));
  expect((await walk(of(folder("/big", many)), 20)).files).toHaveLength(20);
});

it("goes on after what cannot be read, and names it", async () => {
  const { files, unreadable } = await walk(of(file("/secret.md", false), file("/open.md")), 1000);
  expect(files.map(({ path }) => path)).toEqual(["open.md"]);
  expect(unreadable).toEqual(["secret.md"]);
});

it("leaves out what systems put into folders", () => {
  for (const path of ["a/.DS_Store", "Thumbs.db", "a/._b.md", "__MACOSX/a.md"]) expect(isClutter(path)).toBe(true);
  for (const path of ["a.md", ".hidden.md", "DS_Store"]) expect(isClutter(path)).toBe(false);
  expect(picked([new File([], "a.md"), new File([], "desktop.ini")]).map(({ path }) => path)).toEqual(["a.md"]);
});

it("takes files from a drop, not the text or the links in it", async () => {
  const items = [
    { kind: "string", webkitGetAsEntry: () => null, getAsFile: () => null },
    { kind: "file", webkitGetAsEntry: () => file("/a.md"), getAsFile: () => null },
    { kind: "file", webkitGetAsEntry: () => null, getAsFile: () => new File(["x"], "loose.md") },
  ] as unknown as DataTransferItem[];
  const { files } = await walk(dropped(items), 10);
  expect(files.map(({ path }) => path)).toEqual(["loose.md", "a.md"]);
});
