{{- define "keymeter.name" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{ .Release.Name | trunc 63 | trimSuffix "-" }}
{{- else -}}
{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 63 | trimSuffix "-" }}
{{- end -}}
{{- end -}}

{{- define "keymeter.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "keymeter.labels" -}}
{{ include "keymeter.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{/* Whether the gateways keep their counters on one server. */}}
{{- define "keymeter.shares" -}}
{{- with .Values.config.limits }}{{ with .shared }}yes{{ end }}{{ end -}}
{{- end -}}

{{- define "keymeter.pod" -}}
metadata:
  labels:
    {{- include "keymeter.selector" . | nindent 4 }}
    {{- with .Values.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- with .Values.podAnnotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  terminationGracePeriodSeconds: {{ .Values.terminationGracePeriodSeconds }}
  automountServiceAccountToken: false
  {{- with .Values.imagePullSecrets }}
  imagePullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  securityContext:
    runAsNonRoot: true
    runAsUser: 10001
    runAsGroup: 10001
    fsGroup: 10001
    seccompProfile: {type: RuntimeDefault}
  containers:
    - name: keymeter
      image: "{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}"
      imagePullPolicy: {{ .Values.image.pullPolicy }}
      args: ["serve", "--config", "/etc/keymeter/keymeter.yaml"]
      envFrom:
        - secretRef: {name: {{ .Values.secretName | quote }}}
      ports:
        - {name: http, containerPort: {{ .Values.ports.http }}}
        - {name: admin, containerPort: {{ .Values.ports.admin }}}
      readinessProbe:
        httpGet: {path: /-/ready, port: admin}
        periodSeconds: 2
      livenessProbe:
        httpGet: {path: /-/healthy, port: admin}
        periodSeconds: 10
        failureThreshold: 6
      lifecycle:
        preStop:
          # Until no node sends anything here any more; then SIGTERM comes and running responses end.
          exec: {command: ["sleep", "10"]}
      resources:
        {{- toYaml .Values.resources | nindent 8 }}
      securityContext:
        allowPrivilegeEscalation: false
        readOnlyRootFilesystem: true
        capabilities: {drop: [ALL]}
      volumeMounts:
        # The whole directory: a single file that is mounted would never change.
        - {name: configuration, mountPath: /etc/keymeter, readOnly: true}
        - {name: data, mountPath: /var/lib/keymeter}
  volumes:
    - name: configuration
      configMap: {name: {{ include "keymeter.name" . }}}
    {{- if not .Values.persistence.enabled }}
    - name: data
      emptyDir: {}
    {{- end }}
  {{- with .Values.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.affinity }}
  affinity:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.topologySpreadConstraints }}
  topologySpreadConstraints:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end -}}
