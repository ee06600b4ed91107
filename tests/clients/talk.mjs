// What a test and the process of a client say to each other: a JSON object a line, a wish and then what came of it.
import { createInterface } from "node:readline";

export async function talk(deeds) {
  for await (const line of createInterface({ input: process.stdin })) {
    const { do: name, ...wish } = JSON.parse(line);
    let told;
    try {
      told = { done: (await deeds[name](wish)) ?? null };
    } catch (error) {
      told = { error: error.constructor.name, status: error.status ?? error.status_code, message: error.message };
    }
    console.log(JSON.stringify(told));
  }
}
