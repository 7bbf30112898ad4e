// Copying text. The browser's clipboard is closed to pages over plain HTTP, which a service inside a network may be; there
// the older way of a selected field works.

import { toast } from "./toast";
import { shared as t } from "./texts";

/** Copies, and says where that is not possible. */
export async function copyText(text: string): Promise<boolean> {
  const done = (await viaClipboard(text)) || viaField(text);
  if (!done) toast(t.cannotCopy);
  return done;
}

/** Copies what is in a field. Where that is not possible, it is left selected, to be copied by hand. */
export async function copyField(field: HTMLInputElement): Promise<boolean> {
  return (await viaClipboard(field.value)) || copySelected(field);
}

async function viaClipboard(text: string): Promise<boolean> {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return false;
  }
}

function viaField(text: string): boolean {
  const before = document.activeElement;
  const field = document.createElement("textarea");
  field.value = text;
  field.className = "unseen";
  // Outside of a dialog that is open nothing can be selected.
  (before?.closest("dialog") ?? document.body).append(field);
  const done = copySelected(field);
  field.remove();
  if (before instanceof HTMLElement) before.focus({ preventScroll: true });
  return done;
}

function copySelected(field: HTMLInputElement | HTMLTextAreaElement): boolean {
  field.focus({ preventScroll: true });
  field.select();
  try {
    return document.execCommand("copy");
  } catch {
    return false;
  }
}
