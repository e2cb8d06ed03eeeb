# Tritons on GPU nodes, each with its sidecar. Run from the project's folder:
#   nomad job run -var triton_image=… deploy/nomad/triton.nomad.hcl
# For Nomad 1.4 or later.

variable "datacenters" {
  type    = list(string)
  default = ["dc1"]
}

variable "instances" {
  type        = number
  default     = 2
  description = "One is primary, the others stand by."
}

variable "triton_image" {
  type        = string
  description = "An image with tritonserver and the backends of your models."
}

job "triton" {
  datacenters = var.datacenters
  type        = "service"

  # One at a time, and the next only after this one has proven itself: the check below is the
  # sidecar's verdict, not an open port.
  update {
    max_parallel      = 1
    health_check      = "checks"
    min_healthy_time  = "10s"
    healthy_deadline  = "10m"
    progress_deadline = "15m"
    auto_revert       = true
  }

  group "instance" {
    count = var.instances

    # Draining a node moves one instance at a time as well.
    migrate {
      max_parallel     = 1
      health_check     = "checks"
      min_healthy_time = "10s"
      healthy_deadline = "10m"
    }

    # Two instances on one machine fail together.
    constraint {
      operator = "distinct_hosts"
      value    = "true"
    }

    # Restart in place, for ever. With mode "fail" a sidecar that cannot start would, as the leader,
    # take a healthy Triton down with it.
    restart {
      attempts = 10
      interval = "1m"
      delay    = "2s"
      mode     = "delay"
    }

    network {
      mode = "host"
      port "grpc" {}
      port "http" {}
      port "metrics" {}
      port "health" {}
      port "sidecar_metrics" {}
    }

    volume "models" {
      type      = "host"
      source    = "triton-models"
      read_only = true
    }

    # For the roll-out only. The sidecar registers the service that Envoy follows.
    service {
      name     = "triton-rollout"
      provider = "consul"
      port     = "health"

      check {
        type     = "grpc"
        interval = "2s"
        timeout  = "1s"
      }
    }

    task "sidecar" {
      driver = "exec"

      # Nomad stops the leader first and waits for it, then the others: requests drain while Triton is
      # still running. As a lifecycle sidecar it would be stopped last, after its Triton.
      leader = true

      # Nomad's default is SIGINT. kill_timeout has to be longer than drain.timeout below, and Nomad
      # cuts it to max_kill_timeout of the client's configuration, 30s by default: raise both together.
      kill_signal  = "SIGTERM"
      kill_timeout = "30s"

      config {
        command = "/usr/local/bin/triton-sidecar"
        args    = ["run", "--config", "${NOMAD_TASK_DIR}/sidecar.toml"]
      }

      env {
        CONSUL_HTTP_TOKEN_FILE = "${NOMAD_SECRETS_DIR}/consul-token"
      }

      # nomad var put nomad/jobs/triton/instance/sidecar consul_token=…
      template {
        data          = "{{ with nomadVar \"nomad/jobs/triton/instance/sidecar\" }}{{ .consul_token }}{{ end }}"
        destination   = "secrets/consul-token"
        change_mode   = "signal"
        change_signal = "SIGHUP"
      }

      template {
        destination   = "local/sidecar.toml"
        change_mode   = "restart"
        data          = <<-EOT
          [service]
          name = "triton"
          id = "triton-{{ env "NOMAD_ALLOC_ID" }}"
          address = "{{ env "NOMAD_IP_grpc" }}"

          [triton]
          grpc = "{{ env "NOMAD_ADDR_grpc" }}"
          metrics = "{{ env "NOMAD_ADDR_metrics" }}"
          models = ["tinychat_unary"]

          [listen]
          grpc = "{{ env "NOMAD_ADDR_health" }}"
          metrics = "{{ env "NOMAD_ADDR_sidecar_metrics" }}"

          [canary.tinychat_unary]
          inputs = [
            { name = "text_input", datatype = "BYTES", shape = [1], data = ["Hello"] },
            { name = "sampling_parameters", datatype = "BYTES", shape = [1], data = ['{"max_tokens": 4, "temperature": 0, "delay_ms": 0}'] },
          ]
          expect = [{ output = "text_output", equals = ["One slow reply may"] }]

          [drain]
          timeout = "20s"
        EOT
      }

      resources {
        cpu    = 200
        memory = 256
      }
    }

    task "triton" {
      driver = "docker"

      kill_signal = "SIGTERM"
      # Longer than --exit-timeout-secs.
      kill_timeout = "25s"

      config {
        image        = var.triton_image
        network_mode = "host"
        command      = "tritonserver"
        # deploy/README.md explains the ping setting.
        args = [
          "--model-repository=/models",
          "--grpc-address=${NOMAD_IP_grpc}",
          "--grpc-port=${NOMAD_PORT_grpc}",
          "--http-address=${NOMAD_IP_http}",
          "--http-port=${NOMAD_PORT_http}",
          "--metrics-address=${NOMAD_IP_metrics}",
          "--metrics-port=${NOMAD_PORT_metrics}",
          "--grpc-http2-max-ping-strikes=0",
          "--exit-timeout-secs=20",
        ]
        # The Python backend passes tensors through shared memory; Docker's default is 64 MiB.
        shm_size = 1073741824
      }

      volume_mount {
        volume      = "models"
        destination = "/models"
        read_only   = true
      }

      resources {
        cpu    = 4000
        memory = 16384

        device "nvidia/gpu" {
          count = 1
        }
      }
    }
  }
}
