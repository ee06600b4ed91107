// Vercel's AI SDK, over four APIs.
import { createAnthropic } from "@ai-sdk/anthropic";
import { createOpenAI } from "@ai-sdk/openai";
import { generateText, Output, stepCountIs, streamText, tool } from "ai";
import { createOllama } from "ollama-ai-provider-v2";
import { z } from "zod";
import { talk } from "./talk.mjs";

globalThis.AI_SDK_LOG_WARNINGS = false;

function speaker(api, url, model) {
  const openai = createOpenAI({ baseURL: `${url}/v1`, apiKey: "none" });
  if (api === "anthropic") return createAnthropic({ baseURL: `${url}/v1`, apiKey: "none" })(model);
  if (api === "ollama") return createOllama({ baseURL: `${url}/api` })(model);
  return api === "chat" ? openai.chat(model) : openai(model); // its default is the Responses API
}

const rain = (called) =>
  tool({
    description: "Does it rain?",
    inputSchema: z.object({ today: z.boolean() }),
    execute: async (given) => {
      called.push(["rain", JSON.stringify(given)]);
      return "yes";
    },
  });

async function streamed(fields) {
  let failed;
  const result = streamText({ onError: ({ error }) => (failed = error), ...fields });
  await result.consumeStream({ onError: (error) => (failed ??= error) });
  if (failed) throw failed;
  return { text: await result.text, reasoning: (await result.reasoningText) ?? "", steps: await result.steps };
}

await talk({
  async turn({ api, url, model, text }) {
    const openai = { reasoningSummary: "auto", forceReasoning: true }; // it does not know the model
    const providerOptions = { ollama: { think: true }, ...(api === "responses" && { openai }) };
    const fields = { model: speaker(api, url, model), instructions: "Be brief.", prompt: text, providerOptions };
    const { text: said, reasoning } = await streamed(fields);
    return { text: said, reasoning };
  },

  async tools({ api, url, model, text }) {
    const called = [];
    const fields = { model: speaker(api, url, model), tools: { rain: rain(called) }, stopWhen: stepCountIs(3) };
    const { text: said } = await streamed({ ...fields, prompt: text });
    return { calls: called, text: said };
  },

  async resume({ api, url, model, texts }) {
    const messages = [];
    const said = [];
    for (const content of texts) {
      messages.push({ role: "user", content });
      const answer = await generateText({ model: speaker(api, url, model), messages });
      messages.push(...answer.response.messages);
      said.push(answer.text);
    }
    return said;
  },

  async image({ api, url, model, png }) {
    const content = [
      { type: "text", text: "what is it?" },
      { type: "file", data: png, mediaType: "image/png" },
    ];
    const answer = await generateText({ model: speaker(api, url, model), messages: [{ role: "user", content }] });
    return { text: answer.text };
  },

  async shape({ api, url, model }) {
    const output = Output.object({ schema: z.object({ today: z.boolean() }) });
    const providerOptions = { anthropic: { structuredOutputMode: "outputFormat" } }; // it does not know the model
    return (await generateText({ model: speaker(api, url, model), output, prompt: "hi", providerOptions })).output;
  },
});
