import { Ollama } from "ollama";
import { talk } from "./talk.mjs";

const at = (url) => new Ollama({ host: url });

function calls(messages) {
  const all = messages.flatMap(({ tool_calls }) => tool_calls ?? []);
  return all.map(({ function: { name, arguments: given } }) => ({ name, arguments: given }));
}

async function streamed(url, fields) {
  const messages = [];
  for await (const { message } of await at(url).chat({ ...fields, stream: true })) messages.push(message);
  return messages;
}

await talk({
  async chat({ url, tokens, ...fields }) {
    const answer = await at(url).chat({ ...fields, options: { num_predict: tokens } });
    return { model: answer.model, text: answer.message.content };
  },

  async stream({ url, tokens, ...fields }) {
    const messages = await streamed(url, { ...fields, options: { num_predict: tokens } });
    return messages.map(({ content }) => content).filter(Boolean);
  },

  async leave({ url, tokens, ...fields }) {
    const stream = await at(url).chat({ ...fields, stream: true, options: { num_predict: tokens } });
    for await (const { message } of stream) if (message.content) break;
    stream.abort();
  },

  async embed({ url, model, texts }) {
    return (await at(url).embed({ model, input: texts })).embeddings;
  },

  async call({ url, messages, ...fields }) {
    const { message } = await at(url).chat({ ...fields, messages });
    const results = calls([message]).map(({ name }) => ({ role: "tool", tool_name: name, content: "yes" }));
    const answer = await at(url).chat({ ...fields, messages: [...messages, message, ...results] });
    const deltas = await streamed(url, { ...fields, messages });
    return { whole: calls([message]), streamed: calls(deltas), text: answer.message.content };
  },

  async shape({ url, schema, ...fields }) {
    return JSON.parse((await at(url).chat({ ...fields, format: schema })).message.content);
  },
});
