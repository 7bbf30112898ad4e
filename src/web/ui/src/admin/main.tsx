// Starts the page.

import { render } from "preact";
import { TopBar } from "../shared/topbar";

function Page() {
  return (
    <>
      <TopBar page="admin" />
      <main id="main" tabindex={-1} />
    </>
  );
}

render(<Page />, document.getElementById("app")!);
