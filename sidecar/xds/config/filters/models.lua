-- Runs in each Envoy worker, once for each request that names a model (decision 69), in one script with `messages.lua`
-- before it, and after the filter that reads the name from the first message.
--
-- The route metadata says by name what happens: nothing (unknown), true (the load balancer considers only instances that
-- serve the model), or `why` it is refused. An alias has been replaced before, by `frames.lua`.

local READ = "envoy.filters.http.grpc_field_extraction" -- where the filter before this one puts the name
local BALANCER, KEY = "envoy.lb", "model" -- where the load balancer looks for it
local RULE = "model:" -- before a name in the route metadata
local LONGEST = 255 -- bytes of a name that a refusal repeats
local INVALID_ARGUMENT, NOT_FOUND, INTERNAL, UNAVAILABLE = "3", "5", "13", "14"

-- The model that a request names; nil if its first message could not be read, empty if it is about all models.
local function named(handle)
  local read = handle:streamInfo():dynamicMetadata():get(READ)
  local values = read and (read.model_name or read.name)
  return values and values[1]
end

-- As text that a gRPC status message accepts.
local function encoded(text)
  return (text:gsub("[^ -$&-~]", function(byte)
    return ("%%%02X"):format(byte:byte())
  end))
end

local function route(handle)
  local name = named(handle)
  if not name or name == "" then
    return
  end
  local rules = handle:metadata()
  local rule = rules:get(RULE .. name)
  local shown = "model '" .. encoded(name:sub(1, LONGEST)) .. "'"
  if rule == true or (not rule and rules:get("open")) then
    handle:streamInfo():dynamicMetadata():set(BALANCER, KEY, name)
  elseif not rule then
    local service = rules:get("service") or ""
    refuse(handle, NOT_FOUND, shown .. " is unknown: no instance of " .. service .. " names it")
  elseif rule.why then
    refuse(handle, UNAVAILABLE, shown .. " is not available: " .. encoded(rule.why))
  else
    refuse(handle, INVALID_ARGUMENT, shown .. " is an alias: it has to be the first field of the request")
  end
end

function envoy_on_request(handle)
  local done, why = pcall(route, handle)
  if not done then
    handle:logErr("models: " .. tostring(why))
    refuse(handle, INTERNAL, "the request cannot be routed by its model: see Envoy's log")
  end
end
