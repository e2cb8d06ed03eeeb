# A drill of the live mesh each month, on a node of the class "edge". Run from the project's folder:
#   nomad job run deploy/nomad/drill.nomad.hcl
# For Nomad 1.4 or later. It does only what `drill.allow` of the sidecars permits: docs/drills.md.

variable "datacenters" {
  type    = list(string)
  default = ["dc1"]
}

job "triton-drill" {
  datacenters = var.datacenters
  type        = "batch"

  # On the second day of each month, when people are at work.
  periodic {
    cron             = "0 10 2 * *"
    time_zone        = "UTC"
    prohibit_overlap = true
  }

  constraint {
    attribute = "${node.class}"
    value     = "edge"
  }

  # A drill that failed has found something: nobody wants it again before that is understood.
  reschedule {
    attempts  = 0
    unlimited = false
  }

  group "drill" {
    restart {
      attempts = 0
      mode     = "fail"
    }

    task "drill" {
      driver = "exec"

      # If the drill is stopped, the sidecar of the instance undoes the fault, however it ends.
      leader       = true
      kill_signal  = "SIGTERM"
      kill_timeout = "30s"

      config {
        command = "/usr/local/bin/triton-sidecar"
        args = [
          "drill", "all", "--live", "--yes",
          "--config", "${NOMAD_TASK_DIR}/drill.toml",
          "--envoy", "127.0.0.1:8001",
          # Each run is a separate job, so its report is gone when Nomad collects that (`job_gc_threshold`, 4 h by
          # default). Until then: nomad alloc fs ALLOC alloc/data/drill. To keep reports, mount a host volume here.
          "--report", "${NOMAD_ALLOC_DIR}/data/drill",
        ]
      }

      env {
        CONSUL_HTTP_TOKEN_FILE = "${NOMAD_SECRETS_DIR}/consul-token"
      }

      # nomad var put nomad/jobs/triton-drill/drill/drill consul_token=…
      template {
        data        = "{{ with nomadVar \"nomad/jobs/triton-drill/drill/drill\" }}{{ .consul_token }}{{ end }}"
        destination = "secrets/consul-token"
        change_mode = "noop"
      }

      # The service, and what the load asks: as in the sidecars' settings.
      template {
        destination = "local/drill.toml"
        change_mode = "noop"
        data        = <<-EOT
          [service]
          name = "triton"

          [triton]
          models = ["tinychat_unary"]

          [canary.tinychat_unary]
          timeout = "2s"
          inputs = [
            { name = "text_input", datatype = "BYTES", shape = [1], data = ["Hello"] },
            { name = "sampling_parameters", datatype = "BYTES", shape = [1], data = ['{"max_tokens": 4, "temperature": 0, "delay_ms": 0}'] },
          ]
          expect = [{ output = "text_output", equals = ["One slow reply may"] }]
        EOT
      }

      resources {
        cpu    = 1000
        memory = 512
      }
    }
  }
}
