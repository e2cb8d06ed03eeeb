"""When each log line is written, by event, in the order of docs/logs.md."""

EVENTS = {
    # The sidecar: health.
    "verdict_changed": "The verdict on Triton changed; a warning if the instance stops serving.",
    "models_unusable": "The models that the instance does not serve changed; a warning if more.",
    "verdict_published": "Consul confirmed the new verdict, `seconds` after the finding behind it.",
    "probed": "A probe finished; one line for each finding.",
    "canary_derived": "The model has no canary, so one was derived from its metadata.",
    "canary_cached": "Triton's response cache answered a canary, which proves nothing.",
    "gpu_missing": "NVML shows no GPU, and Triton reports none.",
    "gpu_hidden": "Triton reports GPUs that NVML does not show to the sidecar.",
    # Recovery.
    "recovery_waiting": "Triton is unhealthy, and recovery waits; `why` says for what.",
    "recovery_acting": "A recovery action starts; with `dry_run`, it would.",
    "recovery_acted": "A recovery action succeeded.",
    "recovery_failed": "A recovery action failed.",
    "recovery_gave_up": "Restarts did not help; recovery needs an operator.",
    "recovery_idle": "Nothing to recover: Triton is healthy, or a restart would not help (`why`).",
    # Drills.
    "drill_began": "A drill causes a fault to this instance.",
    "drill_ended": "The drill's fault was undone; `why` says what could not be undone.",
    "drill_aborted": "The drill's fault was undone early; `code` says why.",
    "drill_refused": "A drill on this instance was refused; `code` says why.",
    # Election.
    "role_changed": "The instance took another role; `epoch` is 0 unless it is now primary.",
    "promoted": "A cold standby loaded its models and now serves.",
    "promotion_failed": "A cold standby could not load or prove its models, and gives way.",
    "automation_paused": "An operator paused automation.",
    "automation_resumed": "An operator resumed automation.",
    # Models.
    "model_set_differs": "The model set differs from the primary's, or from the declared one.",
    "model_set_unreadable": "The files of the model set cannot be read.",
    "model_set_readable": "The files of the model set can be read again.",
    "model_files_differ": "Files in the model repository changed and were not loaded.",
    "model_files_match": "The files in the model repository match what is loaded again.",
    "model_state_not_saved": "Writing `triton.state` failed; it is retried.",
    "model_state_saved": "Writing `triton.state` works again.",
    # Operation.
    "registered": "The instance was registered in Consul.",
    "request_failed": "A request to Consul, Triton or another system failed and will be retried; "
    "the same failure within a minute is `debug`.",
    "reloaded": "A reload applied the settings; `changed` lists those that changed.",
    "reload_failed": "A reload found invalid settings; the previous ones stay in force.",
    "hook_ran": "The command of a hook succeeded.",
    "hook_failed": "The command of a hook failed or was killed.",
    "notification_dropped": "A hook or webhook will not be told of a change.",
    "step_done": "A step of starting, stopping or withdrawing succeeded.",
    "step_failed": "A step of starting, stopping or withdrawing failed or timed out.",
    "stop_timeout_too_short": "Triton may be stopped before a drain can finish.",
    "drain_unverified": "Nothing proves that no requests are in flight; the drain runs until its "
    "timeout.",
    "connections_reset": "The drain timed out, and Triton's remaining connections were reset.",
    "library_log": "A library logged `message`. The control plane logs this, too.",
    "log_lines_dropped": "Log lines could not be written. The control plane logs this, too.",
    # The control plane: Consul.
    "listening": "The control plane accepts ADS streams.",
    "control_plane_registered": "The control plane was registered in Consul.",
    "control_plane_not_registered": "The registration in Consul failed; it is retried.",
    "catalog_frozen": "A watch of Consul failed; Envoys keep the instances they have.",
    "catalog_recovered": "A watch that had failed follows Consul again.",
    "catalog_verification_failed": "Consul could not confirm that missing instances are gone, so "
    "they are kept.",
    "instances_held": "Instances vanished from Consul and are kept: `serving` say that they serve, "
    "`silent` do not answer.",
    "instances_released": "No instance is held any more.",
    "instance_dropped": "An instance that vanished from Consul was removed.",
    "entry_left_out": "A catalog entry cannot be used, and gets no requests.",
    "entry_field_ignored": "Part of a catalog entry is invalid; the entry is used without it.",
    "policy_rejected": "The policy in Consul is invalid; the last valid one stays in force.",
    "policy_accepted": "The policy in Consul is valid again.",
    # Its cached catalog.
    "cached_catalog_published": "Consul has not answered yet, so Envoys get the catalog from disk.",
    "cached_catalog_confirmed": "Consul confirmed what was published from disk.",
    "cached_catalog_rejected": "The catalog on disk cannot be read, and is ignored.",
    "cached_catalog_not_saved": "Writing the catalog to disk failed; it is retried.",
    "cached_catalog_saved": "Writing the catalog to disk works again.",
    # Envoys.
    "envoy_connected": "An Envoy opened an ADS stream.",
    "envoy_disconnected": "An Envoy's ADS stream ended.",
    "envoy_node_id_shared": "Two streams have one node id: an Envoy reconnected, or two Envoys "
    "share the id and their load reports cannot be told apart.",
    "envoy_rejected_config": "An Envoy rejected a response (NACK); it keeps its previous config.",
    "envoy_stats_unavailable": "Envoy's admin interface does not answer; its failed requests are "
    "not counted.",
    "envoy_stats_available": "Envoy's admin interface answers again.",
    # Releases and quarantine.
    "release_guard_blind": "The release has a guard, but `envoy.admin` names no Envoy to read.",
    "release_rolled_back": "The guard rolled the release back.",
    "release_still_rolled_back": "After a restart, the guard's rollback stays in force.",
    "rollback_saved": "The rollback was written to the policy in Consul.",
    "rollback_not_saved": "Writing the rollback to Consul failed; it is retried.",
    "rollback_ended": "The policy no longer asks for the release that was rolled back.",
    "request_quarantined": "A request crashes Triton: the same request is rejected for `seconds`.",
    "request_pardoned": "A suspect request is cleared: its instance vanished with its host.",
}
