import OpenAI from "openai";
import { talk } from "./talk.mjs";

const at = (url) => new OpenAI({ baseURL: `${url}/v1`, apiKey: "none", maxRetries: 0 });

function calls(message) {
  return message.tool_calls.map(({ function: { name, arguments: given } }) => ({ name, arguments: JSON.parse(given) }));
}

await talk({
  async chat({ url, tokens, ...fields }) {
    const answer = await at(url).chat.completions.create({ ...fields, max_completion_tokens: tokens });
    return { model: answer.model, text: answer.choices[0].message.content };
  },

  async stream({ url, tokens, ...fields }) {
    const pieces = [];
    for await (const chunk of await at(url).chat.completions.create({ ...fields, max_tokens: tokens, stream: true }))
      pieces.push(chunk.choices[0].delta.content);
    return pieces.filter(Boolean);
  },

  async leave({ url, tokens, ...fields }) {
    const stream = await at(url).chat.completions.create({ ...fields, max_tokens: tokens, stream: true });
    for await (const chunk of stream) if (chunk.choices[0].delta.content) stream.controller.abort();
  },

  async embed({ url, model, texts }) {
    return (await at(url).embeddings.create({ model, input: texts })).data.map((item) => item.embedding);
  },

  async call({ url, messages, ...fields }) {
    const { completions } = at(url).chat;
    const { message } = (await completions.create({ ...fields, messages })).choices[0];
    const streamed = await completions.stream({ ...fields, messages }).finalMessage();
    const results = message.tool_calls.map(({ id }) => ({ role: "tool", tool_call_id: id, content: "yes" }));
    const answer = await completions.create({ ...fields, messages: [...messages, message, ...results] });
    return { whole: calls(message), streamed: calls(streamed), text: answer.choices[0].message.content };
  },

  async shape({ url, schema, ...fields }) {
    const response_format = { type: "json_schema", json_schema: { name: "answer", schema, strict: true } };
    const answer = await at(url).chat.completions.parse({ ...fields, response_format });
    return JSON.parse(answer.choices[0].message.content);
  },
});
