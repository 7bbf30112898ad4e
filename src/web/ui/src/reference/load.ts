// Gets the reference from the service, once.

import { signal } from "@preact/signals";
import { get, Problem } from "../shared/api";
import type { OpenApi } from "./openapi";

export const api = signal<OpenApi | null>(null);
export const problem = signal<Problem | null>(null);

export async function load(): Promise<void> {
  problem.value = null;
  try {
    api.value = await get<OpenApi>("openapi.json");
  } catch (error) {
    problem.value = error instanceof Problem ? error : Problem.ofLostConnection(error);
  }
}
