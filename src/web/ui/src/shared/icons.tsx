// The pages' icons: strokes on a 24 by 24 grid, in the colour of the text. They are always beside a text, or in a
// button that has a label, so a screen reader is not told of them.

import type { ComponentChildren } from "preact";

interface IconProps {
  size?: number;
}

const icon = (shape: ComponentChildren) =>
  function Icon({ size = 18 }: IconProps) {
    return (
      <svg class="icon" width={size} height={size} viewBox="0 0 24 24" fill="none" stroke="currentColor" stroke-width="2" stroke-linecap="round" stroke-linejoin="round" aria-hidden="true" focusable="false">
        {shape}
      </svg>
    );
  };

const path = (d: string) => icon(<path d={d} />);

export const Send = path("M12 19V5m-6 6 6-6 6 6");
export const Stop = icon(<rect x="6.5" y="6.5" width="11" height="11" rx="2" fill="currentColor" />);
export const Copy = path("M9 9h10a1 1 0 0 1 1 1v10a1 1 0 0 1-1 1H9a1 1 0 0 1-1-1V10a1 1 0 0 1 1-1zM5 15H4a1 1 0 0 1-1-1V4a1 1 0 0 1 1-1h10a1 1 0 0 1 1 1v1");
export const Check = path("m5 12.5 4.5 4.5L19 7.5");
export const Edit = path("M4 20h4L19 9a2.1 2.1 0 0 0-4-4L4 16zM13.5 6.5l4 4");
export const Retry = path("M20 11a8 8 0 1 0-2.3 6.7M20 4v7h-7");
export const ThumbUp = path("M7 11v9H4a1 1 0 0 1-1-1v-7a1 1 0 0 1 1-1zl4.2-7.4a1.8 1.8 0 0 1 3.3 1.2L14 9h5.2a2 2 0 0 1 2 2.4l-1.4 7a2 2 0 0 1-2 1.6H7");
export const ThumbDown = path("M17 13V4h3a1 1 0 0 1 1 1v7a1 1 0 0 1-1 1zl-4.2 7.4a1.8 1.8 0 0 1-3.3-1.2L10 15H4.8a2 2 0 0 1-2-2.4l1.4-7a2 2 0 0 1 2-1.6H17");
export const Sidebar = path("M5 4h14a1 1 0 0 1 1 1v14a1 1 0 0 1-1 1H5a1 1 0 0 1-1-1V5a1 1 0 0 1 1-1zM9.5 4v16");
export const Plus = path("M12 5v14M5 12h14");
export const NewChat = path("M12 4H5a1 1 0 0 0-1 1v14a1 1 0 0 0 1 1h14a1 1 0 0 0 1-1v-7M18.4 2.6a2 2 0 0 1 2.9 2.9L13 14l-4 1 1-4z");
export const Search = icon(<><circle cx="11" cy="11" r="6.5" /><path d="m20 20-4.3-4.3" /></>);
export const Trash = path("M4 7h16M9 7V4h6v3M6 7l1 13h10l1-13M10 11v5M14 11v5");
export const Download = path("M12 4v11m-5-5 5 5 5-5M4 20h16");
export const Upload = path("M12 16V5m-5 5 5-5 5 5M4 20h16");
export const Close = path("M6 6l12 12M18 6 6 18");
export const More = icon(<><circle cx="5" cy="12" r="1" /><circle cx="12" cy="12" r="1" /><circle cx="19" cy="12" r="1" /></>);
export const Sun = icon(<><circle cx="12" cy="12" r="4" /><path d="M12 3v1.5M12 19.5V21M3 12h1.5M19.5 12H21M5.6 5.6l1.1 1.1M17.3 17.3l1.1 1.1M18.4 5.6l-1.1 1.1M6.7 17.3l-1.1 1.1" /></>);
export const Moon = path("M20 14.5A8.5 8.5 0 0 1 9.5 4a8.5 8.5 0 1 0 10.5 10.5z");
export const System = path("M4 5h16v11H4zM9 20h6M12 16v4");
export const User = icon(<><circle cx="12" cy="8" r="4" /><path d="M4.5 20.5a7.5 7.5 0 0 1 15 0" /></>);
export const Key = icon(<><circle cx="8" cy="15" r="4" /><path d="m11 12 8.5-8.5M16 7l3 3" /></>);
export const File = path("M6 3h8l5 5v13H6a1 1 0 0 1-1-1V4a1 1 0 0 1 1-1zM14 3v5h5");
export const Folder = path("M3 6a1 1 0 0 1 1-1h5l2 3h9a1 1 0 0 1 1 1v9a1 1 0 0 1-1 1H4a1 1 0 0 1-1-1z");
export const Filter = path("M4 5h16l-6.5 7.5V19l-3 1.5v-8z");
export const ChevronDown = path("m6 9 6 6 6-6");
export const ChevronRight = path("m9 6 6 6-6 6");
export const ArrowDown = path("M12 5v14m-6-6 6 6 6-6");
export const External = path("M14 4h6v6M20 4l-9 9M18 14v5a1 1 0 0 1-1 1H5a1 1 0 0 1-1-1V7a1 1 0 0 1 1-1h5");
export const Warning = path("M12 4 2.8 20h18.4zM12 10v4.5M12 17.4v.1");
export const Clock = icon(<><circle cx="12" cy="12" r="8.5" /><path d="M12 7.5V12l3 2" /></>);
export const Bolt = path("M13 3 5 14h6l-1 7 8-11h-6z");
export const Offline = path("M3 3l18 18M8.5 16.4a5 5 0 0 1 7 0M5 12.9a10 10 0 0 1 4-2.4M2 9.3a15 15 0 0 1 4.5-2.8M19 12.9a10 10 0 0 0-2.6-1.8M22 9.3A15 15 0 0 0 11 5M12 20h.01");
