def test_probe(engine, routers, tiny_models):
    for more in ((), ("--predict", "-1")):
        r = routers("--engine", engine, "--models-dir", str(tiny_models), "--ctx-size", "4096", "--parallel", "1", *more)
        body = {"model": "tiny-a", "messages": [{"role": "user", "content": "hi"}]}
        a = r.client.post("/v1/chat/completions", json=body).json()
        print(engine[-12:], more, a["usage"], a["choices"][0]["finish_reason"], r.client.get("/props?model=tiny-a").json()["default_generation_settings"]["n_ctx"])
        r.stop()
