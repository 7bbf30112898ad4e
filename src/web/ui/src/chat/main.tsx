// Starts the chat page.

import { render } from "preact";
import { start } from "./conversations";
import { ChatPage } from "./page";
import "./chat.css";
import "./answer.css";

void start();
render(<ChatPage />, document.getElementById("app")!);
