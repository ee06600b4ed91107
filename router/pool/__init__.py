"""Acts: performs what scheduling decided, and reports back what came of it.

Stands on nearly all below it; machines are handed in. Begin with `pool`: apply an event, perform its effects. Then
`core`: what all parts share. A `child_run` is one process of one model; `processes` has all of them. `status` is what
clients see of a model, memory included. `load-on-startup` is done by `catalog_exchange`, `ttl` by `keep_alive` and the
scheduler, `pin` and `priority` by the scheduler. Who may call whom::

    Pool             calls every part. It hands them `Core` and a few of its own methods, never itself
    CatalogExchange  calls SettingsLoads and Downloads, and alone writes `Core.catalog`
    SettingsLoads    reads Processes and Downloads; Tickets calls its hooks `on_grant`, `on_refuse`
    Processes        calls Measurements and HealthWatch
    Tickets          reads Downloads
    every part       calls the scheduler, and `core.apply` with the effects in the same step; it tells `core.journal`

What is handed out and handed in::

    lease            the right to send one request to a running child    -> nothing
    download_source  the border to where missing models come from        -> nothing
    hub_names        the answers of the hub to names, kept for a minute  -> nothing
    arriving         a file that arrives, and whether its model will fit -> download_source
    hub_models       models on the hub: found, fetched, removed          -> download_source hub_names arriving

Settings of loads::

    settings_patch      PURE: the settings that one load request names  -> nothing
    requested_settings  PURE: the settings requested of one model       -> settings_patch
    preset_changes      PURE: changes of presets, and which have failed -> nothing
    settings_store      which settings hold, and which are being tried  -> requested_settings preset_changes

Processes, and books on models::

    engine_lines        what processes write, for the router's log       -> nothing
    logs                what processes wrote, kept for readers           -> engine_lines
    child_run           one process of one model, until it has ended     -> nothing
    status              PURE: models and devices as clients see them     -> child_run
    device_facts        PURE: what a device holds, and for whom          -> nothing
    launch_plans        what the next process of a model is started with -> nothing
    load_times          when each model has loaded                       -> nothing
    process_events      PURE: events of processes, with numbers          -> nothing
    device_news         tells of devices that are lost, and of pressure  -> nothing
    queue_news          tells who waits, and who is drained              -> nothing
    nodes               the machines, taken together                     -> status device_news
    task_set            background tasks                                 -> nothing
    keep_alive          how long a model stays without requests          -> nothing
    unload_generations  an unload cancels what came before it            -> nothing

The ground of the parts::

    core  what all parts share -> settings_store launch_plans queue_news nodes task_set keep_alive unload_generations

What processes do::

    alarm         time for the scheduler     -> core
    measurements  what processes really hold -> child_run core
    health_watch  processes that hang        -> child_run core
    processes     from spawn to exit         -> logs child_run load_times process_events core measurements health_watch

The parts::

    pins       models that stay, on wish -> core
    outlook    what a load would meet    -> settings_store core processes
    downloads  files that are missing    -> download_source core
    facts      what operators see        -> child_run status device_facts core processes downloads

Requests that wait::

    tickets  requests -> lease core downloads

Requests that need not wait::

    gate  small requests to models that serve -> lease child_run core tickets

Explicit loads, and a new catalog::

    settings_loads    loads  -> lease settings_patch requested_settings settings_store core processes outlook downloads
    catalog_exchange  models -> lease settings_store core downloads settings_loads

The pool itself::

    pool -> lease logs child_run core alarm processes pins downloads facts gate tickets settings_loads catalog_exchange
"""
