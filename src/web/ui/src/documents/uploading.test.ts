import { beforeEach, describe, expect, it, vi } from "vitest";
import { place, takeDrop } from "./uploading";

const uploads = vi.hoisted(() => ({ add: vi.fn((_found: unknown[], _place: object) => []) }));
vi.mock("./uploads", async (actual) => ({ ...(await actual<object>()), ...uploads }));

const items = () => [{ kind: "file", webkitGetAsEntry: () => null, getAsFile: () => new File(["x"], "x.md") }] as unknown as DataTransferItemList;

beforeEach(() => {
  uploads.add.mockClear();
  place.value = { collection: "default", groups: "", prefix: "" };
});

describe("what is dropped", () => {
  it("is for everybody where no group is named, whatever was typed", async () => {
    for (const groups of ["", " ", ",", "hr, legal"]) {
      place.value = { ...place.value, groups };
      await takeDrop(items());
    }
    expect(uploads.add.mock.calls.map(([, to]) => (to as { visibleTo: unknown }).visibleTo)).toEqual([null, null, null, ["hr", "legal"]]);
  });

  it("is not taken into a collection that cannot be one", async () => {
    place.value = { ...place.value, collection: "Not One" };
    await takeDrop(items());
    expect(uploads.add).not.toHaveBeenCalled();
  });
});
