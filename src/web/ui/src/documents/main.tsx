// Starts the page.

import { render } from "preact";
import { filter } from "./list";
import { Page } from "./page";
import { search } from "./searching";

const asked = new URLSearchParams(location.search);
filter.value = { collection: asked.get("collection") ?? "", prefix: asked.get("prefix") ?? "" };
void search(asked.get("q") ?? "");

render(<Page />, document.getElementById("app")!);
