# Envoy with its control plane on every node of the class "edge". Run from the project's folder:
#   nomad job run deploy/nomad/envoy.nomad.hcl
# For Nomad 1.4 or later.

variable "datacenters" {
  type    = list(string)
  default = ["dc1"]
}

variable "bootstrap" {
  type        = string
  default     = "envoy/bootstrap.yaml"
  description = "Envoy's bootstrap, read when the job is submitted."
}

job "triton-envoy" {
  datacenters = var.datacenters
  type        = "system"

  constraint {
    attribute = "${node.class}"
    value     = "edge"
  }

  # One entry point at a time.
  update {
    max_parallel     = 1
    min_healthy_time = "10s"
    healthy_deadline = "2m"
  }

  group "entry" {
    restart {
      attempts = 10
      interval = "1m"
      delay    = "1s"
      mode     = "delay"
    }

    # The last good catalog outlives the allocation: the next one on this node starts with it.
    ephemeral_disk {
      sticky = true
    }

    network {
      mode = "host"

      # The port that clients use.
      port "grpc" {
        static = 8001
      }

      # The control plane; Envoy's bootstrap names this port.
      port "xds" {
        static = 18000
      }

      port "xds_metrics" {
        static = 18001
      }
    }

    task "envoy" {
      driver = "exec"

      # Stopped before its control plane, which draining sidecars may still be querying.
      leader       = true
      kill_signal  = "SIGTERM"
      kill_timeout = "10s"

      config {
        command = "/usr/local/bin/envoy"
        # With routing by model, Envoy would log five lines for each stream.
        args = [
          "--config-path", "${NOMAD_TASK_DIR}/bootstrap.yaml", "--disable-hot-restart",
          "--component-log-level", "misc:warning",
        ]
      }

      template {
        data        = file(var.bootstrap)
        destination = "local/bootstrap.yaml"
      }

      resources {
        cpu    = 2000
        memory = 1024
      }
    }

    task "control-plane" {
      driver = "exec"

      kill_signal  = "SIGTERM"
      kill_timeout = "10s"

      config {
        command = "/usr/local/bin/triton-sidecar"
        args    = ["xds", "--config", "${NOMAD_TASK_DIR}/xds.toml"]
      }

      env {
        CONSUL_HTTP_TOKEN_FILE = "${NOMAD_SECRETS_DIR}/consul-token"
      }

      # nomad var put nomad/jobs/triton-envoy/entry/control-plane consul_token=…
      template {
        data          = "{{ with nomadVar \"nomad/jobs/triton-envoy/entry/control-plane\" }}{{ .consul_token }}{{ end }}"
        destination   = "secrets/consul-token"
        change_mode   = "signal"
        change_signal = "SIGHUP"
      }

      template {
        destination = "local/xds.toml"
        change_mode = "restart"
        data        = <<-EOT
          [xds]
          # Envoy connects on this machine, sidecars from other ones.
          listen = "0.0.0.0:{{ env "NOMAD_PORT_xds" }}"
          advertise = "{{ env "NOMAD_IP_xds" }}"
          services = ["triton"]
          metrics = "{{ env "NOMAD_ADDR_xds_metrics" }}"
          state = "{{ env "NOMAD_ALLOC_DIR" }}/data/xds-state.json"

          [envoy]
          listen = "0.0.0.0:{{ env "NOMAD_PORT_grpc" }}"
          admin = ["127.0.0.1:9901"]
        EOT
      }

      resources {
        cpu    = 500
        memory = 256
      }
    }
  }
}
