import { afterEach, describe, expect, it, vi } from "vitest";
import { copyField, copyText } from "./clipboard";

/** A page over plain HTTP: no clipboard, and a copy of what is selected. */
function plain(allowed: boolean): (string | null)[] {
  const copied: (string | null)[] = [];
  vi.stubGlobal("navigator", {});
  document.execCommand = () => {
    const field = document.activeElement as HTMLInputElement;
    copied.push(field.closest("dialog") === null ? field.value : `${field.value} in the dialog`);
    return allowed;
  };
  return copied;
}

afterEach(() => {
  vi.unstubAllGlobals();
  document.body.replaceChildren();
});

describe("copying over plain HTTP", () => {
  it("selects within the dialog that is open, and gives the focus back", async () => {
    document.body.innerHTML = '<dialog open><button type="button">Copy</button></dialog>';
    const button = document.querySelector("button")!;
    button.focus();
    const copied = plain(true);
    expect(await copyText("text")).toBe(true);
    expect(copied).toEqual(["text in the dialog"]);
    expect(document.activeElement).toBe(button);
    expect(document.querySelector("textarea")).toBeNull();
  });

  it("leaves a field selected that cannot be copied", async () => {
    document.body.innerHTML = '<input value="secret">';
    const field = document.querySelector("input")!;
    expect([plain(false), await copyField(field)]).toEqual([["secret"], false]);
    expect([document.activeElement, field.selectionStart, field.selectionEnd]).toEqual([field, 0, 6]);
  });
});
