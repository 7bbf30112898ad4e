// A button with a menu or a panel below it, on the browser's own popover: it is above everything, closes by Escape and
// by a press elsewhere. Arrow keys walk through a menu.

import type { ComponentChildren } from "preact";
import { useEffect, useId, useRef } from "preact/hooks";

interface PopoverProps {
  label: string;
  /** What the button shows. */
  face: ComponentChildren;
  class?: string;
  children: ComponentChildren;
  /** `menu`: of menu items; it closes when one is chosen. `panel`: anything else. */
  kind?: "menu" | "panel";
  title?: string;
  /** Called as it opens. */
  onOpen?: () => void;
}

export function Popover({ label, face, class: look = "icon-button", children, kind = "menu", title, onOpen }: PopoverProps) {
  const id = useId();
  const button = useRef<HTMLButtonElement>(null);
  const panel = useRef<HTMLDivElement>(null);

  /** Below the button where there is room, else above; never out of the window. */
  const place = () => {
    const box = panel.current;
    if (!button.current || !box) return;
    const from = button.current.getBoundingClientRect();
    const below = innerHeight - from.bottom;
    const up = below < box.offsetHeight + 12 && from.top > below;
    const left = from.left + box.offsetWidth > innerWidth - 8 ? from.right - box.offsetWidth : from.left;
    box.style.left = `${Math.max(8, Math.min(left, innerWidth - box.offsetWidth - 8))}px`;
    box.style.top = up ? "auto" : `${from.bottom + 4}px`;
    box.style.bottom = up ? `${innerHeight - from.top + 4}px` : "auto";
    box.style.maxHeight = `${Math.max(120, (up ? from.top : below) - 16)}px`;
    box.style.overflowY = "auto";
  };
  useEffect(() => {
    // What else moves with the window has moved a frame later.
    const again = () =>
      requestAnimationFrame(() =>
        requestAnimationFrame(() => {
          if (panel.current?.matches(":popover-open")) place();
        }),
      );
    addEventListener("resize", again);
    return () => removeEventListener("resize", again);
  }, []);
  const items = () => [...panel.current!.querySelectorAll<HTMLElement>(".menu-item")];

  return (
    <>
      <button ref={button} type="button" class={look} aria-label={label} title={title ?? label} aria-haspopup={kind === "menu" ? "menu" : "dialog"} aria-expanded={false} popovertarget={id}>
        {face}
      </button>
      <div
        ref={panel}
        id={id}
        popover="auto"
        class="popover"
        role={kind === "menu" ? "menu" : "dialog"}
        aria-label={label}
        // It can be measured once it is open, and is not to be seen before it is in its place.
        onBeforeToggle={(event) => {
          if (event.newState !== "open") return;
          panel.current!.style.visibility = "hidden";
          onOpen?.();
        }}
        onToggle={(event) => {
          const open = event.newState === "open";
          button.current?.setAttribute("aria-expanded", String(open));
          // It is told a moment later: the menu may be gone by then.
          if (!open || !panel.current) return;
          place();
          panel.current.style.visibility = "";
          if (kind === "menu") items()[0]?.focus();
        }}
        onClick={(event) => {
          if (kind === "menu" && (event.target as Element).closest(".menu-item")) panel.current?.hidePopover();
        }}
        onKeyDown={(event) => {
          const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
          if (kind !== "menu" || step === undefined) return;
          event.preventDefault();
          const all = items();
          const at = all.indexOf(document.activeElement as HTMLElement);
          all[(at + step + all.length) % all.length]?.focus();
        }}
      >
        {children}
      </div>
    </>
  );
}

interface MenuItemProps {
  icon?: ComponentChildren;
  danger?: boolean;
  /** Where the item is one of a choice. */
  checked?: boolean;
  onClick: () => void;
  children: ComponentChildren;
}

export function MenuItem({ icon, danger = false, checked, onClick, children }: MenuItemProps) {
  return (
    <button type="button" class={`menu-item ${danger ? "danger" : ""}`} role={checked === undefined ? "menuitem" : "menuitemradio"} aria-checked={checked} onClick={onClick}>
      {icon}
      {children}
    </button>
  );
}
