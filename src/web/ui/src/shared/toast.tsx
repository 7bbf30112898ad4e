// Short notices at the edge of the window: what was done, perhaps with a way back. They go by themselves.

import { signal } from "@preact/signals";
import { Close } from "./icons";
import { shared as t } from "./texts";

interface Toast {
  id: number;
  text: string;
  action: { label: string; run: () => void } | null;
}

const LASTS_MS = 6_000;
const toasts = signal<Toast[]>([]);
let count = 0;

/** Shows a notice for a few seconds. */
export function toast(text: string, action: Toast["action"] = null): void {
  const one = { id: ++count, text, action };
  toasts.value = [...toasts.value.slice(-2), one];
  setTimeout(() => dismiss(one.id), LASTS_MS);
}

function dismiss(id: number): void {
  toasts.value = toasts.value.filter((one) => one.id !== id);
}

export function Toasts() {
  return (
    <div class="toasts" role="status" aria-live="polite">
      {toasts.value.map(({ id, text, action }) => (
        <div class="toast" key={id}>
          <p>{text}</p>
          {action && (
            <button
              type="button"
              class="button"
              onClick={() => {
                action.run();
                dismiss(id);
              }}
            >
              {action.label}
            </button>
          )}
          <button type="button" class="icon-button" aria-label={t.close} onClick={() => dismiss(id)}>
            <Close size={14} />
          </button>
        </div>
      ))}
    </div>
  );
}
