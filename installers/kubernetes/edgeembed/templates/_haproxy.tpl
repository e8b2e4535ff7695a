{{/*
HAProxy's configuration: installers/several/haproxy.cfg for pods. What the lines about keys, hashing and retries mean is said there; a
test holds them together.
*/}}
{{- define "edgeembed.haproxy" -}}
global
    maxconn {{ int64 .Values.balancer.maxConnections }}
    nbthread {{ .Values.balancer.threads }}
    tune.bufsize 65536
    # After SIGUSR1, requests in flight get as long as on the boxes.
    hard-stop-after {{ .Values.drain.graceSeconds }}s

defaults
    mode http
    timeout connect 1s
    timeout client 660s
    timeout server 660s
    timeout http-request 60s
    timeout http-keep-alive 60s
    timeout check 5s
    # Finds out within half a minute that the node of a box is gone; see `default-server`.
    option srvtcpka
    srvtcpka-idle 10s
    srvtcpka-intvl 5s
    srvtcpka-cnt 3

resolvers cluster
    parse-resolv-conf
    accepted_payload_size 8192
    timeout resolve 2s
    timeout retry 1s
    hold valid 2s
    # Less than drain.delaySeconds, together with CoreDNS's 5 s: a box that ends is left alone before it closes its port.
    hold nx 3s
    # While DNS is away, boxes keep their addresses.
    hold timeout 1d
    hold refused 1d
    hold other 1d

frontend edgeembed
    bind :8327
    # These would change one box of several, chosen by chance. Their paths have no other spelling (docs/security.md).
    http-request return status 403 content-type application/json string '{"error":{"message":"this would change one of several servers, chosen by chance; ask one itself, by kubectl port-forward","code":"forbidden"}}' if { path_beg /v1/admin /api/pull /api/delete /api/copy }
    default_backend boxes

backend boxes
    option http-buffer-request
    http-request set-var(txn.key) req.body,json_query('$.input')
    http-request set-var(txn.key) req.body unless { var(txn.key) -m found }
    balance hash var(txn.key)
    hash-type consistent wt6 avalanche
    {{- with .Values.balancer.hashBalanceFactor }}
    hash-balance-factor {{ . }}
    {{- end }}
    retries 3
    option redispatch 1
    retry-on conn-failure empty-response junk-response 502 503 504
    option httpchk
    http-check send meth GET uri /readyz hdr Host localhost
    http-check expect status 200
    http-response set-header X-Edgeembed-Box %s
    # Without `on-marked-down shutdown-sessions`: a pod that is ended fails its checks, but finishes its requests. One that hangs is
    # ended by its liveness probe.
    default-server check inter 2s fastinter 500ms downinter 1s fall 2 rise 2 slowstart 30s init-addr none resolvers cluster resolve-prefer ipv4
    # A line and a number for each box that there may be, and not `server-template`, which numbers addresses: boxes that come back at
    # other ones would be mixed up, and balancers would disagree. A name that does not exist is a box that is down.
    {{- $root := . }}
    {{- range $number := until (int (include "edgeembed.most" .)) }}
    {{- $name := printf "%s-%d" (include "edgeembed.fullname" $root) $number }}
    server {{ $name }} {{ $name }}.{{ include "edgeembed.boxes" $root }}.{{ $root.Release.Namespace }}.svc.{{ $root.Values.clusterDomain }}:8327 id {{ add1 $number }}
    {{- end }}

frontend metrics
    bind :8404
    http-request return status 200 if { path /live }
    http-request return status 200 if { path /ready } { nbsrv(boxes) gt 0 }
    http-request return status 503 if { path /ready }
    http-request use-service prometheus-exporter if { path /metrics }
    http-request deny
{{- end -}}
