// Modal dialogs, on the browser's own <dialog>: it keeps the focus inside and gives it back, and closes by Escape.

import type { ComponentChildren } from "preact";
import { useId, useLayoutEffect, useRef } from "preact/hooks";
import { Close } from "./icons";
import { shared as t } from "./texts";

interface DialogProps {
  title: ComponentChildren;
  /** Below the title. */
  subtitle?: ComponentChildren;
  onClose: () => void;
  /** A press beside it does not close it: what it shows cannot be had again. */
  firm?: boolean;
  wide?: boolean;
  class?: string;
  children: ComponentChildren;
}

/** A dialog, open for as long as it is rendered. Its owner takes it away in `onClose`. */
export function Dialog({ title, subtitle, onClose, firm = false, wide = false, class: kind = "", children }: DialogProps) {
  const ref = useRef<HTMLDialogElement>(null);
  const id = useId();
  useLayoutEffect(() => {
    const dialog = ref.current!;
    const before = document.activeElement;
    dialog.showModal();
    return () => {
      dialog.close();
      // The browser gives the focus back to what had it when the dialog closes, but not when its element goes as well.
      queueMicrotask(() => {
        if (before instanceof HTMLElement && before.isConnected) before.focus({ preventScroll: true });
      });
    };
  }, []);
  return (
    <dialog
      ref={ref}
      class={`dialog ${wide ? "wide" : ""} ${kind}`}
      aria-labelledby={id}
      onCancel={(event) => {
        event.preventDefault();
        onClose();
      }}
      // A press beside the dialog meets its backdrop, which is the dialog element itself.
      onMouseDown={(event) => {
        if (!firm && event.target === ref.current) onClose();
      }}
    >
      <header>
        <div>
          <h2 id={id}>{title}</h2>
          {subtitle}
        </div>
        <button type="button" class="icon-button" aria-label={t.close} onClick={onClose}>
          <Close />
        </button>
      </header>
      <div class="body">{children}</div>
    </dialog>
  );
}

interface ConfirmProps {
  title: string;
  text: ComponentChildren;
  /** On the button that does it. */
  action: string;
  danger?: boolean;
  onConfirm: () => void;
  onClose: () => void;
}

/** Asks before something that cannot be undone. */
export function Confirm({ title, text, action, danger = true, onConfirm, onClose }: ConfirmProps) {
  return (
    <Dialog title={title} onClose={onClose}>
      <p>{text}</p>
      <div class="actions">
        <button type="button" class="button" onClick={onClose}>
          {t.cancel}
        </button>
        <button
          type="button"
          class={`button ${danger ? "danger" : "primary"}`}
          onClick={() => {
            onConfirm();
            onClose();
          }}
        >
          {action}
        </button>
      </div>
    </Dialog>
  );
}
