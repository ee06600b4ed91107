// The protocol between a test and the process of a client: one JSON object a line, a task and then its result.
import { createInterface } from "node:readline";

export async function talk(functions) {
  for await (const line of createInterface({ input: process.stdin })) {
    const { do: name, ...task } = JSON.parse(line);
    let result;
    try {
      result = { done: (await functions[name](task)) ?? null };
    } catch (error) {
      const status = error.status ?? error.status_code ?? error.statusCode ?? null;
      result = { error: error.constructor.name, status, message: `${error.message} ${error.responseBody ?? ""}` };
    }
    console.log(JSON.stringify(result));
  }
}
